// What a network allows: ranks 0 and 1 of a job exchange messages over one TCP connection.
//
//   torchrun-like environment (RANK, MASTER_ADDR, MASTER_PORT); ping bytes=1 operations=1000
//
// An operation is a message of `bytes` bytes from rank 0 to rank 1 and one byte back. With bytes=1
// its time is a round trip; with many bytes, `bytes` divided by it is the rate of TCP's payload.
// Other ranks only take part at the gate.

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/gate.h"

namespace {

namespace bench = gearshift::bench;

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

sockaddr_in address_of_rank_0() {
  const char* host = std::getenv("MASTER_ADDR");
  addrinfo hints{};
  hints.ai_family = AF_INET;
  addrinfo* found = nullptr;
  if (host == nullptr || ::getaddrinfo(host, nullptr, &hints, &found) != 0) {
    throw std::runtime_error("MASTER_ADDR is not set, or not known");
  }
  sockaddr_in address{};
  std::memcpy(&address, found->ai_addr, sizeof address);
  ::freeaddrinfo(found);
  address.sin_port =
      htons(static_cast<std::uint16_t>(bench::number_from_environment("MASTER_PORT")));
  return address;
}

int accept_peer(const sockaddr_in& address) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fail("bind");
  }
  if (::listen(listener, 1) != 0) fail("listen");
  const int fd = ::accept(listener, nullptr, nullptr);
  if (fd < 0) fail("accept");
  ::close(listener);
  return fd;
}

int connect_to_peer(const sockaddr_in& address) {
  for (int attempt = 0; attempt < 200; ++attempt) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
    ::close(fd);
    ::usleep(50'000);
  }
  fail("connect");
}

void send_all(int fd, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t n = ::send(fd, data, size, MSG_NOSIGNAL);
    if (n <= 0) fail("send");
    data += n;
    size -= static_cast<std::size_t>(n);
  }
}

void receive_all(int fd, char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t n = ::recv(fd, data, size, 0);
    if (n <= 0) fail("recv");
    data += n;
    size -= static_cast<std::size_t>(n);
  }
}

void exchange(int fd, int rank, std::vector<char>& message) {
  char answer = 0;
  if (rank == 0) {
    send_all(fd, message.data(), message.size());
    receive_all(fd, &answer, 1);
  } else {
    receive_all(fd, message.data(), message.size());
    send_all(fd, &answer, 1);
  }
}

bench::Report serve(int fd, int rank, const bench::Order& order) {
  using Clock = std::chrono::steady_clock;
  const std::size_t operations = order.number("operations", 100);
  const std::size_t batches = order.number("batches", 5);
  std::vector<char> message(order.number("bytes", 1), static_cast<char>(1 - rank));
  bench::Report report;
  exchange(fd, rank, message);
  for (std::size_t batch = 0; batch < batches; ++batch) {
    const auto begin = Clock::now();
    for (std::size_t i = 0; i < operations; ++i) exchange(fd, rank, message);
    const std::chrono::duration<double> elapsed = Clock::now() - begin;
    report.seconds.push_back(elapsed.count() / static_cast<double>(operations));
  }
  report.operations = operations * batches + 1;
  for (const char byte : message) {
    if (byte != 1) report.problem = "another byte arrived than was sent";
  }
  return report;
}

void run(int argc, char** argv) {
  const int rank = bench::number_from_environment("RANK");
  int fd = -1;
  if (rank < 2) {
    const sockaddr_in address = address_of_rank_0();
    fd = rank == 0 ? accept_peer(address) : connect_to_peer(address);
    const int yes = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  }
  bench::Gate gate(rank, argc, argv);
  while (const auto order = gate.next()) {
    gate.report(rank < 2 ? serve(fd, rank, *order) : bench::Report{});
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ping: %s\n", error.what());
    return 1;
  }
}
