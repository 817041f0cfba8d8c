// About what the kernel's TCP allows for an all-reduce between hosts: a ring over plain sockets.
//
//   torchrun-like environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)
//   plain_tcp bytes=67108864 operations=3
//
// Each rank has one connection to the next and one from the previous rank, and one thread that
// writes whatever the one takes and reads whatever the other has. What arrives is added chunk by
// chunk and may travel on at once. There are no messages, tags, time limits or heartbeats.

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <vector>

#include "support/all_reduce_rounds.h"
#include "support/sockets.h"

namespace {

namespace bench = gearshift::bench;

constexpr std::size_t kChunk = std::size_t{256} << 10;

struct Neighbours {
  int next = -1;
  int previous = -1;
};

/// Rank 0 tells all where they listen.
std::vector<sockaddr_in> exchange_addresses(int rank, int ranks, const sockaddr_in& own) {
  std::vector<sockaddr_in> all(static_cast<std::size_t>(ranks));
  const std::size_t bytes = all.size() * sizeof(sockaddr_in);
  if (rank > 0) {
    const int fd = bench::connect_to(bench::address_of_rank_0());
    sockaddr_in mine = own;
    mine.sin_addr = bench::local_address(fd).sin_addr;
    bench::send_all(fd, &rank, sizeof rank);
    bench::send_all(fd, &mine, sizeof mine);
    bench::receive_all(fd, all.data(), bytes);
    ::close(fd);
    return all;
  }
  all[0] = own;
  all[0].sin_addr = bench::address_of_rank_0().sin_addr;
  const int listener = bench::listen_at(bench::address_of_rank_0());
  std::vector<int> callers;
  for (int i = 1; i < ranks; ++i) {
    callers.push_back(bench::accept_one(listener));
    int caller = 0;
    bench::receive_all(callers.back(), &caller, sizeof caller);
    if (caller < 1 || caller >= ranks) throw std::runtime_error("a stranger called");
    bench::receive_all(callers.back(), &all[static_cast<std::size_t>(caller)], sizeof own);
  }
  for (const int fd : callers) {
    bench::send_all(fd, all.data(), bytes);
    ::close(fd);
  }
  ::close(listener);
  return all;
}

Neighbours meet(int rank, int ranks) {
  sockaddr_in anywhere{};
  anywhere.sin_family = AF_INET;
  const int listener = bench::listen_at(anywhere);
  const auto all = exchange_addresses(rank, ranks, bench::local_address(listener));
  Neighbours found;
  found.next = bench::connect_to(all[static_cast<std::size_t>((rank + 1) % ranks)]);
  found.previous = bench::accept_one(listener);
  ::close(listener);
  for (const int fd : {found.next, found.previous}) {
    bench::disable_delay(fd);
    ::fcntl(fd, F_SETFL, O_NONBLOCK);
  }
  return found;
}

/// A stretch of the array, as the ring sends or receives it.
struct Block {
  std::byte* data;
  std::size_t bytes;
  bool add;  ///< what arrives is added, else it replaces
};

class PlainTcp : public bench::Subject {
 public:
  PlainTcp(int rank, int ranks)
      : rank_(rank), ranks_(ranks), links_(meet(rank, ranks)), scratch_(kChunk / sizeof(float)) {}

  std::byte* memory(std::size_t bytes) override {
    array_.resize(bytes);
    return array_.data();
  }

  void all_reduce(std::byte* data, std::size_t bytes) override {
    std::vector<Block> outgoing;
    std::vector<Block> incoming;
    for (int step = 0; step < 2 * (ranks_ - 1); ++step) {
      // The first half of the steps leaves each rank the sum of one block, the second spreads it.
      const bool adds = step < ranks_ - 1;
      outgoing.push_back(block(data, bytes, rank_ - step, adds));
      incoming.push_back(block(data, bytes, rank_ - step - 1, adds));
    }
    run(outgoing, incoming);
  }

 private:
  Block block(std::byte* data, std::size_t bytes, int index, bool add) const {
    const auto ranks = static_cast<std::size_t>(ranks_);
    const auto i = static_cast<std::size_t>((index % ranks_ + ranks_) % ranks_);
    const std::size_t elements = bytes / sizeof(float);
    const std::size_t begin = elements * i / ranks;
    const std::size_t end = elements * (i + 1) / ranks;
    return {data + begin * sizeof(float), (end - begin) * sizeof(float), add};
  }

  /// What goes out at a step came in at the step before.
  void run(const std::vector<Block>& outgoing, const std::vector<Block>& incoming) {
    std::size_t out = 0, sent = 0, in = 0, received = 0;
    std::size_t may_send = outgoing.empty() ? 0 : outgoing[0].bytes;
    while (out < outgoing.size() || in < incoming.size()) {
      if (in < incoming.size() && receive(incoming[in], received, may_send)) {
        if (received == incoming[in].bytes) ++in, received = 0;
        continue;
      }
      if (out < outgoing.size() && send(outgoing[out], sent, may_send)) {
        if (sent == outgoing[out].bytes) ++out, sent = 0;
        continue;
      }
      await(in < incoming.size(), out < outgoing.size() && may_send > 0);
    }
  }

  void await(bool to_read, bool to_write) const {
    pollfd ready[2] = {{links_.previous, static_cast<short>(to_read ? POLLIN : 0), 0},
                       {links_.next, static_cast<short>(to_write ? POLLOUT : 0), 0}};
    if (::poll(ready, 2, -1) < 0 && errno != EINTR) bench::fail("poll");
  }

  /// False: nothing there now.
  bool receive(const Block& block, std::size_t& done, std::size_t& may_send) {
    const std::size_t wanted = std::min(kChunk, block.bytes - done);
    std::byte* into = block.data + done;
    std::byte* landing = block.add ? reinterpret_cast<std::byte*>(scratch_.data()) : into;
    if (wanted > 0) {
      const ssize_t n = ::recv(links_.previous, landing + part_, wanted - part_, 0);
      if (n == 0) throw std::runtime_error("recv: the neighbour is gone");
      if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) bench::fail("recv");
      if (n < 0) return false;
      part_ += static_cast<std::size_t>(n);
      if (part_ < wanted) return true;
    }
    if (block.add) add(into, wanted);
    part_ = 0;
    done += wanted;
    may_send += wanted;
    return true;
  }

  void add(std::byte* into, std::size_t bytes) const {
    auto* sum = reinterpret_cast<float*>(into);
    for (std::size_t i = 0; i < bytes / sizeof(float); ++i) sum[i] += scratch_[i];
  }

  /// False: the socket takes nothing now, or nothing has come that could go.
  bool send(const Block& block, std::size_t& done, std::size_t& may_send) const {
    const std::size_t wanted = std::min(may_send, block.bytes - done);
    if (wanted == 0) return block.bytes == 0;
    const ssize_t n = ::send(links_.next, block.data + done, wanted, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) bench::fail("send");
    if (n < 0) return false;
    done += static_cast<std::size_t>(n);
    may_send -= static_cast<std::size_t>(n);
    return true;
  }

  const int rank_;
  const int ranks_;
  const Neighbours links_;
  std::vector<std::byte> array_;
  std::vector<float> scratch_;
  std::size_t part_ = 0;  ///< of the chunk that arrives
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const int rank = bench::number_from_environment("RANK");
    const int ranks = bench::number_from_environment("WORLD_SIZE");
    PlainTcp subject(rank, ranks);
    bench::Gate gate(rank, argc, argv);
    bench::serve_all_reduce(gate, subject, bench::Element::kFloat32, rank, ranks);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "plain_tcp: %s\n", error.what());
    return 1;
  }
}
