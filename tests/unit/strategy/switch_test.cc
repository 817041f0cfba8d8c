#include <gtest/gtest.h>

#include "toy.h"

namespace gearshift::strategy {
namespace {

using toy::Model;
using toy::Worker;

Strategy there_and_back(ps::Consistency consistency, std::shared_ptr<Policy> policy,
                        std::shared_ptr<Policy> back) {
  Strategy strategy;
  strategy.kind =
      StrategySwitch{AllReduce{}, ParameterServer{consistency}, std::move(policy), std::move(back)};
  return strategy;
}

class Switch : public testing::TestWithParam<int> {};

TEST_P(Switch, ToABspServerAndBackIsNoSwitchAtAll) {
  const int workers = GetParam();
  const Model alone = toy::train_alone(100, [&](int) { return 3 * workers; });
  for (const int servers : {0, 2}) {
    toy::run_ranks(workers, servers, [&](int rank, Environment environment) {
      Worker worker(environment, there_and_back(ps::Consistency::bsp(), at_step(30), at_step(60)));
      std::vector<std::int64_t> switched;
      for (int k = 0; k < 100; ++k) {
        const StepReport report = worker.step(3 * (workers * k + rank), 3);
        if (!report.switched) continue;
        switched.push_back(report.switched->step);
        EXPECT_NE(report.switched->parameter_hash, 0U);
      }
      EXPECT_EQ(switched, (std::vector<std::int64_t>{30, 60}));
      worker.expect_equals(alone);
      EXPECT_EQ(worker.replica->stats().switches.size(), 2U);
      worker.ok(worker.replica->stop());
    });
  }
}

TEST_P(Switch, HandsOverWithoutMovingParameters) {
  toy::run_ranks(GetParam(), 0, [&](int rank, Environment environment) {
    Worker worker(environment, there_and_back(ps::Consistency::asp(), at_step(3), nullptr));
    for (int k = 0; k < 3; ++k) {
      const StepReport report = worker.step(5 * k + rank, 2);
      if (!report.switched) continue;
      // Hashes and a barrier: much less than 38 doubles to every peer.
      EXPECT_LT(report.switched->bytes_moved, 250U * static_cast<unsigned>(GetParam()));
    }
    EXPECT_TRUE(worker.replica->uses_server());
    worker.ok(worker.replica->stop());
  });
}

/// Mostly of a wrong total_steps, which would go unnoticed otherwise.
TEST(Switch, IsToldWhereTrainingEndsBeforeIt) {
  for (const int steps : {0, 4, 5}) {
    ::testing::internal::CaptureStderr();
    toy::run_ranks(2, 0, [&](int rank, Environment environment) {
      Strategy strategy = there_and_back(ps::Consistency::asp(), at_fraction(0.5), nullptr);
      strategy.total_steps = 10;
      Worker worker(environment, strategy);
      for (int k = 0; k < steps; ++k) worker.step(5 * k + rank, 2);
      worker.ok(worker.replica->stop());
    });
    const std::string log = ::testing::internal::GetCapturedStderr();
    const std::string told =
        "training ended after step 4, before the switch from all_reduce, due after step 5 by "
        "at(fraction=0.5), total_steps=10";
    const std::size_t first = log.find(told);
    EXPECT_EQ(first != std::string::npos, steps == 4) << steps << log;
    EXPECT_EQ(log.find("training ended", first == std::string::npos ? 0 : first + 1),
              std::string::npos)
        << "on one rank: " << log;
  }
}

INSTANTIATE_TEST_SUITE_P(Workers, Switch, testing::Values(1, 2, 3));

/// Whose rounds those that go on make in an order of their own, switches included.
TEST(Switch, OfTwoModelsThatARankJoinsAtOnce) {
  std::vector<Strategy> strategies(3);
  strategies[1].kind = ParameterServer{};
  strategies[2] = there_and_back(ps::Consistency::bsp(), at_step(4), at_step(8));
  for (const Strategy& strategy : strategies) {
    std::vector<std::vector<double>> finals(3);
    toy::run_ranks(3, 0, [&](int rank, Environment environment) {
      Worker one(environment, strategy, 128, 0), two(environment, strategy, 128, 1);
      for (int k = 0; k < 3 + 4 * rank; ++k) {
        one.step(10 * k + rank, 2);
        two.step(10 * k + 3 * rank, 3);
      }
      base::Scheduler& scheduler = environment.workers->scheduler();
      const auto beside = scheduler.spawn("join", [&] { EXPECT_TRUE(one.replica->join().ok()); });
      EXPECT_TRUE(two.replica->join().ok());
      beside->join();
      std::vector<double>& mine = finals[static_cast<std::size_t>(rank)];
      for (Worker* worker : {&one, &two}) {
        EXPECT_EQ(worker->replica->stats().step, 11);
        mine.insert(mine.end(), worker->weights(), worker->weights() + toy::kFeatures);
      }
      one.ok(one.replica->stop());
      two.ok(two.replica->stop());
    });
    EXPECT_EQ(finals[0], finals[1]) << strategy.to_string();
    EXPECT_EQ(finals[0], finals[2]) << strategy.to_string();
  }
}

TEST(Switch, ManyTimesByACallable) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    const auto often = [] {
      return custom_policy("every 4", [](const Metrics& m) { return m.step % 4 == 0; });
    };
    Worker worker(environment, there_and_back(ps::Consistency::bsp(), often(), often()));
    for (int k = 0; k < 40; ++k) worker.step(5 * k + 2 * rank, 2);
    EXPECT_GE(worker.replica->stats().switches.size(), 6U);
    worker.ok(worker.replica->stop());
  });
}

TEST(Switch, BackFromAsynchronousWorkersAtDifferentSteps) {
  std::vector<std::vector<double>> finals(3);
  toy::run_ranks(3, 0, [&](int rank, Environment environment) {
    const auto soon = custom_policy("at 12", [](const Metrics& m) { return m.step >= 12; });
    Worker worker(environment, there_and_back(ps::Consistency::asp(), at_step(5), soon));
    for (int k = 0; k < 40; ++k) worker.step(5 * k + rank, 1 + rank);
    ASSERT_TRUE(worker.replica->join().ok());
    EXPECT_FALSE(worker.replica->uses_server());
    finals[static_cast<std::size_t>(rank)].assign(worker.weights(),
                                                  worker.weights() + toy::kFeatures);
  });
  EXPECT_EQ(finals[0], finals[1]);
  EXPECT_EQ(finals[0], finals[2]);
}

TEST(Switch, BackWithoutALossFromBeforeTheServers) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, there_and_back(ps::Consistency::bsp(), at_step(3), at_step(6)));
    for (int k = 0; k < 6; ++k) worker.step(5 * k + 2 * rank, 2);
    ASSERT_FALSE(worker.replica->uses_server());
    const double latest = worker.replica->stats().loss;
    worker.step(30 + 2 * rank, 2);
    EXPECT_EQ(worker.replica->stats().loss, latest) << "of step 6, not of step 3";
  });
}

TEST(Switch, WhileSomeRanksHaveRunOut) {
  toy::run_ranks(3, 0, [&](int rank, Environment environment) {
    Worker worker(environment, there_and_back(ps::Consistency::bsp(), at_step(4), at_step(8)));
    // Rank 2 is out of batches before the server phase ends.
    const int batches = rank == 2 ? 6 : 12;
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (int k = 0; k < batches; ++k) worker.step(5 * k + rank, 2, epoch);
      auto joined = worker.replica->join();
      ASSERT_TRUE(joined.ok()) << joined.error().to_string();
      EXPECT_EQ(worker.replica->stats().step, 12 * (epoch + 1));
    }
    EXPECT_EQ(worker.replica->stats().switches.size(), 2U);
  });
}

TEST(Switch, WithTheLastStepOfAnEpochThatSomeRanksHaveNot) {
  // Rank 0 is out of batches when the others make the step after which all switch.
  Strategy strategy;
  strategy.kind = StrategySwitch{ParameterServer{}, AllReduce{}, at_step(6), nullptr};
  toy::run_ranks(3, 0, [&](int rank, Environment environment) {
    Worker worker(environment, strategy);
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (int k = 0; k < (rank == 0 ? 4 : 6); ++k) worker.step(5 * k + rank, 2, epoch);
      auto joined = worker.replica->join();
      ASSERT_TRUE(joined.ok()) << joined.error().to_string();
      EXPECT_EQ(joined->root, base::Rank(1)) << "whose schedules have seen all steps";
      EXPECT_TRUE(joined->steps_differ);
      EXPECT_EQ(worker.replica->stats().step, 6 * (epoch + 1));
      worker.optimizer->reset();  // on all: equal again
    }
    EXPECT_EQ(worker.replica->stats().switches.size(), 1U);
  });
}

TEST(Switch, ThatHadToWaitForARankOutOfBatchesIsMadeWhenItIsBack) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    // Rank 0 is out of batches at the only step that the policy likes.
    const auto once = custom_policy("at 5", [](const Metrics& m) { return m.step == 5; });
    Worker worker(environment, there_and_back(ps::Consistency::bsp(), once, nullptr));
    std::vector<std::int64_t> switched;
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (int k = 0; k < (rank == 0 ? 4 : 6); ++k) {
        const StepReport report = worker.step(5 * k + rank, 2, epoch);
        if (report.switched) switched.push_back(report.switched->step);
      }
      ASSERT_TRUE(worker.replica->join().ok());
      if (!worker.replica->uses_server()) worker.optimizer->reset();  // on all: equal again
    }
    EXPECT_EQ(switched, std::vector<std::int64_t>{7});
    worker.ok(worker.replica->stop());
  });
}

TEST(Switch, APolicyMayLookAtTheStats) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Replica* replica = nullptr;
    const auto asks =
        custom_policy("asks", [&replica](const Metrics&) { return replica->stats().step == 2; });
    Worker worker(environment, there_and_back(ps::Consistency::bsp(), asks, nullptr));
    replica = worker.replica.get();
    for (int k = 0; k < 4; ++k) worker.step(4 * k + 2 * rank, 2);
    EXPECT_TRUE(worker.replica->uses_server());
    worker.ok(worker.replica->stop());
  });
}

TEST(Switch, LossPlateauSeesTheReducedLossOfAllRanks) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment,
                  there_and_back(ps::Consistency::asp(), loss_plateau(2, 0.5), nullptr));
    std::optional<SwitchRecord> record;
    for (int k = 0; k < 60 && !record; ++k) {
      record = worker.step(4 * (k % 3) + 2 * rank, 2, k / 3).switched;
    }
    ASSERT_TRUE(record.has_value());
    EXPECT_NE(record->inputs.find("mean relative change"), std::string::npos);
    worker.ok(worker.replica->stop());
  });
}

TEST(Switch, PoliciesThatDependOnTheRankAreFound) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    const auto mine =
        custom_policy("mine", [rank](const Metrics& m) { return rank == 0 && m.step == 2; });
    Worker worker(environment, there_and_back(ps::Consistency::bsp(), mine, nullptr));
    worker.step(0, 2);
    worker.ok(worker.replica->backward_begin(2));
    ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
    const auto report = worker.replica->step({});
    ASSERT_FALSE(report.ok());
    EXPECT_NE(report.error().message.find("decided differently"), std::string::npos);
  });
}

}  // namespace
}  // namespace gearshift::strategy
