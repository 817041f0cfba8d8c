#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/transport/transport.h"

/// One suite for every transport. A transport takes part by a file of its own, which says how to
/// make one and instantiates the suite (see inproc_test.cc), and is linked with the suite's sources
/// by `transport_conformance(<name> <file>)` in CMakeLists.txt.
namespace gearshift::testing {

/// What the suite needs to know of a transport. One object per test; it outlives all transports
/// that it makes.
class TransportMaker {
 public:
  virtual ~TransportMaker() = default;
  /// A transport that can reach all others made by this object.
  virtual base::Result<std::unique_ptr<transport::Transport>> make(
      std::shared_ptr<transport::Router> router, transport::Identity identity) = 0;
  virtual bool carries_phantoms() const { return false; }
  virtual bool shares_regions() const { return false; }
};

using MakeTransportMaker = std::function<std::unique_ptr<TransportMaker>(base::Scheduler&)>;

/// One rank: its router and transport and, once linked, its connection to the other rank.
struct Peer {
  std::shared_ptr<transport::Router> router;
  std::unique_ptr<transport::Transport> transport;
  std::unique_ptr<transport::Connection> link;
};

class TransportConformance : public ::testing::TestWithParam<MakeTransportMaker> {
 protected:
  static constexpr const char* kToken = "one job's secret";

  /// Far enough that only a hang reaches it.
  base::TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }
  /// For waits that are meant to time out.
  base::TimePoint shortly() const { return scheduler->after(std::chrono::milliseconds(50)); }

  Peer make_peer(int rank, const std::string& token = kToken, std::uint32_t generation = 1) {
    Peer peer;
    peer.router = std::make_shared<transport::Router>(*scheduler);
    auto made = maker->make(
        peer.router,
        {.rank = base::Rank(rank), .generation = base::Generation(generation), .token = token});
    EXPECT_TRUE(made.ok()) << made.error().to_string();
    if (made) peer.transport = *std::move(made);
    return peer;
  }

  /// Connects `from` to `to`, which has the given ranks.
  void link(Peer& from, int from_rank, Peer& to, int to_rank) {
    std::jthread acceptor([&] {
      auto accepted = to.transport->accept(base::Rank(from_rank), soon());
      ASSERT_TRUE(accepted.ok()) << accepted.error().to_string();
      to.link = *std::move(accepted);
    });
    auto connected = from.transport->connect(base::Rank(to_rank), to.transport->address(), soon());
    ASSERT_TRUE(connected.ok()) << connected.error().to_string();
    from.link = *std::move(connected);
  }

  /// Ranks 0 and 1, connected, in `a` and `b`.
  void link_pair() {
    a = make_peer(0);
    b = make_peer(1);
    link(a, 0, b, 1);
    ASSERT_TRUE(a.link && b.link);
  }

  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  std::unique_ptr<TransportMaker> maker = GetParam()(*scheduler);
  Peer a;
  Peer b;
};

/// `size` bytes that differ by position and by `seed`.
std::vector<std::byte> pattern(std::size_t size, unsigned seed);
/// The first difference between two byte ranges, or -1; quicker to read than two dumps.
std::ptrdiff_t first_difference(base::ConstBytes x, base::ConstBytes y);

}  // namespace gearshift::testing
