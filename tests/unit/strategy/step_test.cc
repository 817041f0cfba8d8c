#include <gtest/gtest.h>

#include <future>
#include <limits>
#include <string>
#include <vector>

#include "gearshift/strategy/replica.h"
#include "toy.h"

namespace gearshift::strategy {
namespace {

using toy::Worker;

TEST(Replica, AStepComesAfterABackward) {
  for (const bool by_server : {false, true}) {
    Strategy strategy;
    if (by_server) strategy.kind = ParameterServer{};
    toy::run_ranks(2, 0, [&](int rank, Environment environment) {
      Worker worker(environment, strategy);
      StepInput input;
      input.hypers = Worker::hypers();
      const auto refused = [&](const std::string& why) {
        const auto report = worker.replica->step(input);
        ASSERT_FALSE(report.ok());
        EXPECT_EQ(report.error().code, base::ErrorCode::kInvalidArgument);
        EXPECT_NE(report.error().message.find(why), std::string::npos) << report.error().message;
      };
      refused("without a backward");
      worker.step(rank, 1);
      refused("without a backward");
      worker.ok(worker.replica->backward_begin(1));
      refused("a backward has begun");
      worker.ok(worker.replica->ready(1));
      refused("a backward has begun");
      ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
      ASSERT_TRUE(worker.replica->step(input).ok());
      ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
      ASSERT_TRUE(worker.replica->join().ok());
      refused("without a backward");
      EXPECT_EQ(worker.replica->stats().step, 2);
      worker.ok(worker.replica->stop());
    });
  }
}

/// Of two ranks, the second of which makes two steps before the first makes three.
struct Seen {
  decltype(Strategy::kind) kind;
  bool in_step = false;                   ///< the second makes its steps with the first
  std::vector<std::int64_t> own, others;  ///< as the first is told
};

TEST(Replica, AStepTellsWhatTheParametersHaveSeen) {
  const auto servers = [](const ps::Consistency& consistency) {
    return ParameterServer{consistency};
  };
  for (const Seen& seen :
       {Seen{AllReduce{}, true, {1, 2, 3}, {1, 2, 3}},
        Seen{servers(ps::Consistency::bsp()), true, {1, 2, 3}, {1, 2, 3}},
        Seen{LocalSgd{.every = 2}, true, {1, 2, 3}, {0, 2, 2}},
        Seen{servers(ps::Consistency::asp()), false, {1, 2, 3}, {1, 2, 2}},
        Seen{servers(ps::Consistency::ssp(2)), false, {1, 2, 3}, {1, 2, 2}},
        Seen{servers(ps::Consistency::buffered(3)), false, {-1, 0, 1}, {-1, 0, 0}}}) {
    Strategy strategy;
    strategy.kind = seen.kind;
    std::promise<void> second_has_stepped, first_is_through;
    toy::run_ranks(2, 0, [&](int rank, Environment environment) {
      Worker worker(environment, strategy);
      const bool waits = rank == 0 && !seen.in_step;
      if (waits) second_has_stepped.get_future().wait();
      const std::size_t steps = rank == 0 || seen.in_step ? 3 : 2;
      for (std::size_t k = 0; k < steps; ++k) {
        const StepReport report = worker.step(static_cast<int>(k), 1);
        if (rank > 0) continue;
        EXPECT_EQ(report.seen, seen.own[k]) << strategy.to_string();
        EXPECT_EQ(report.seen_of_others, seen.others[k]) << strategy.to_string();
      }
      if (waits) {
        first_is_through.set_value();
      } else if (!seen.in_step) {  // one that has joined takes no part
        second_has_stepped.set_value();
        first_is_through.get_future().wait();
      }
      EXPECT_TRUE(worker.replica->join().ok());
      worker.ok(worker.replica->stop());
    });
  }
}

TEST(Replica, AStepTellsWhetherRanksHadAsManySamples) {
  toy::run_ranks(3, 0, [&](int rank, Environment environment) {
    Worker worker(environment, Strategy{});
    EXPECT_TRUE(worker.step(3 * rank, 3).alike);
    EXPECT_FALSE(worker.step(3 * rank, rank == 1 ? 2 : 3).alike);
    if (rank > 0) {
      EXPECT_TRUE(worker.step(3 * rank, 2).alike) << "of those that take part";
    }
    EXPECT_TRUE(worker.replica->join().ok());
    worker.ok(worker.replica->stop());
  });
}

TEST(Replica, AGradientThatServersSkipNeedsNoBackward) {
  Strategy strategy;
  strategy.kind = ParameterServer{};
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    Worker worker(environment, strategy);
    const double before = worker.bias();
    StepInput input;
    input.skip = true;
    const auto report = worker.replica->step(input);
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    EXPECT_TRUE(report->skipped);
    EXPECT_EQ(worker.bias(), before);
    worker.ok(worker.replica->stop());
  });
}

TEST(Replica, NumbersOfAStepAreFinite) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Strategy strategy;
  strategy.kind = ParameterServer{};
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    Worker worker(environment, strategy);
    ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
    StepInput good;
    good.hypers = Worker::hypers();
    const auto refused = [&](const StepInput& input, const std::string& which) {
      const auto report = worker.replica->step(input);
      ASSERT_FALSE(report.ok());
      EXPECT_EQ(report.error().code, base::ErrorCode::kInvalidArgument);
      EXPECT_NE(report.error().message.find(which), std::string::npos) << report.error().message;
    };
    for (const double number : {infinity, -infinity, nan}) {
      StepInput input = good;
      input.gradient_factor = number;
      refused(input, "gradient_factor");
    }
    for (const double number : {infinity, -1.0, nan}) {
      StepInput input = good;
      input.clip_norm = number;
      refused(input, "clip_norm");
    }
    EXPECT_TRUE(worker.replica->step(good).ok());
    worker.ok(worker.replica->stop());
  });
}

}  // namespace
}  // namespace gearshift::strategy
