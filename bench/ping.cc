// What a network allows: ranks 0 and 1 of a job exchange messages over one TCP connection.
//
//   torchrun-like environment (RANK, MASTER_ADDR, MASTER_PORT); ping bytes=1 operations=1000
//
// An operation is a message of `bytes` bytes from rank 0 to rank 1 and one byte back. With bytes=1
// its time is a round trip; with many bytes, `bytes` divided by it is the rate of TCP's payload.
// Other ranks only take part at the gate.

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <vector>

#include "support/gate.h"
#include "support/sockets.h"

namespace {

namespace bench = gearshift::bench;

void exchange(int fd, int rank, std::vector<char>& message) {
  char answer = 0;
  if (rank == 0) {
    bench::send_all(fd, message.data(), message.size());
    bench::receive_all(fd, &answer, 1);
  } else {
    bench::receive_all(fd, message.data(), message.size());
    bench::send_all(fd, &answer, 1);
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
    const sockaddr_in address = bench::address_of_rank_0();
    if (rank == 0) {
      const int listener = bench::listen_at(address);
      fd = bench::accept_one(listener);
      ::close(listener);
    } else {
      fd = bench::connect_to(address);
    }
    bench::disable_delay(fd);
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
