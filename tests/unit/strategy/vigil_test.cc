#include "strategy/vigil.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

#include "toy.h"

namespace gearshift::strategy {
namespace {

using std::chrono::milliseconds;

/// Knows one other rank, and notes what it is told.
class OnePeer final : public membership::Monitor {
 public:
  std::optional<base::Error> failure() const override { return std::nullopt; }
  void fail(const base::Error& error) override {
    message = error.message;
    code = error.code;
    failed = true;
  }
  std::vector<membership::PeerReport> report() const override {
    membership::PeerReport peer;
    peer.step = step;
    return {peer};
  }
  std::string report_text() const override { return ""; }
  base::Error explain(const base::Error& error) const override { return error; }
  void stop() override {}

  std::atomic<std::int64_t> step{0};
  std::string message;
  base::ErrorCode code{};
  std::atomic<bool> failed{false};
};

TEST(Vigil, EndsTheGroupWhenNobodyMakesSteps) {
  auto scheduler = base::make_os_scheduler();
  OnePeer peer;
  const Vigil vigil(*scheduler, peer, milliseconds(1));
  const base::TimePoint deadline = scheduler->after(std::chrono::seconds(20));
  while (!peer.failed && scheduler->now() < deadline) scheduler->sleep_for(milliseconds(1));
  ASSERT_TRUE(peer.failed);
  EXPECT_EQ(peer.code, base::ErrorCode::kTimeout);
  EXPECT_NE(peer.message.find("none has made a step"), std::string::npos) << peer.message;
}

TEST(Vigil, WaitsForWhoeverMakesSteps) {
  auto scheduler = base::make_os_scheduler();
  OnePeer peer;
  {
    const Vigil vigil(*scheduler, peer, milliseconds(100));
    // Half as long again as it waits for somebody who makes none.
    for (int k = 0; k < 30; ++k) {
      ++peer.step;
      scheduler->sleep_for(milliseconds(100));
    }
  }
  EXPECT_FALSE(peer.failed);
}

/// Rank 1 has no batches; rank 0's steps take longer than the timeout.
void slow_steps(Strategy strategy) {
  toy::run_ranks(
      2, 0,
      [&](int rank, Environment environment) {
        toy::Worker worker(environment, strategy);
        for (int k = 0; k < 2 && rank == 0; ++k) {
          environment.workers->scheduler().sleep_for(milliseconds(2500));
          worker.step(4 * k, 4);
        }
        const auto joined = worker.replica->join();
        ASSERT_TRUE(joined.ok()) << joined.error().to_string();
        worker.ok(worker.replica->stop());
      },
      milliseconds(2000));
}

TEST(Patience, ARankOutOfBatchesWaitsForStepsLongerThanTheTimeout) {
  slow_steps(Strategy{});
  Strategy server;
  server.kind = ParameterServer{ps::Consistency::asp()};
  slow_steps(server);
}

}  // namespace
}  // namespace gearshift::strategy
