#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "gearshift/base/scheduler.h"
#include "gearshift/strategy/config.h"
#include "strategy/decider.h"

namespace gearshift::strategy {
namespace {

Metrics with_losses(std::vector<double> losses) {
  Metrics metrics;
  metrics.epoch_losses = std::move(losses);
  return metrics;
}

TEST(LossPlateau, FiresWhenTheMeanRelativeChangeIsSmall) {
  const auto policy = loss_plateau(2, 0.1);
  EXPECT_FALSE(policy->decide(with_losses({1.0, 1.0})).switch_now) << "too few epochs";
  EXPECT_FALSE(policy->decide(with_losses({2.0, 1.5, 1.45})).switch_now);
  // (|1.9-2|/2 + |1.8-1.9|/1.9) / 2 = 0.0513…
  EXPECT_TRUE(policy->decide(with_losses({9.0, 2.0, 1.9, 1.8})).switch_now);
}

TEST(LossPlateau, CountsNoEpochsOfAnEarlierPhase) {
  const auto policy = loss_plateau(2, 0.1);
  Metrics metrics = with_losses({2.0, 1.9, 1.8, 1.8, 1.8});
  metrics.earlier_epochs = 3;
  EXPECT_FALSE(policy->decide(metrics).switch_now);
  metrics.epoch_losses.push_back(1.8);
  EXPECT_TRUE(policy->decide(metrics).switch_now);
}

TEST(At, KnowsItsStep) {
  EXPECT_EQ(at_step(30)->known_step(0), 30);
  EXPECT_EQ(at_fraction(0.5)->known_step(101), 51);
  EXPECT_FALSE(at_fraction(0.5)->validate(0).ok()) << "needs total_steps";
  EXPECT_TRUE(at_fraction(0.5)->validate(10).ok());
  EXPECT_FALSE(at_fraction(0)->validate(10).ok());
  EXPECT_FALSE(at_fraction(1.5)->validate(10).ok());
  EXPECT_FALSE(at_fraction(std::numeric_limits<double>::quiet_NaN())->validate(10).ok());
  EXPECT_FALSE(at_step(0)->validate(10).ok());
}

TEST(Strategy, ValidatesItself) {
  Strategy strategy;
  strategy.kind = StrategySwitch{AllReduce{}, AllReduce{}, at_step(3), nullptr};
  EXPECT_FALSE(strategy.validate(2, 0).ok()) << "from all-reduce to all-reduce";
  strategy.kind = ParameterServer{ps::Consistency::bsp(), 3, -1};
  EXPECT_FALSE(strategy.validate(2, 0).ok()) << "more shards than workers";
  const AllReduce unknown{static_cast<collectives::Algorithm>(77)};
  strategy.kind = unknown;
  EXPECT_FALSE(strategy.validate(2, 0).ok()) << "no such algorithm";
  strategy.kind = StrategySwitch{unknown, ParameterServer{}, at_step(3), nullptr};
  EXPECT_FALSE(strategy.validate(2, 0).ok()) << "nor in a switch";
  strategy.kind = ParameterServer{ps::Consistency::bsp(), 0, 2};
  const base::Status status = strategy.validate(2, 0);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("--servers 2"), std::string::npos);
  EXPECT_TRUE(strategy.validate(2, 2).ok());
}

TEST(Strategy, ComesBackAfterItHasSwitched) {
  Strategy strategy;
  strategy.kind = StrategySwitch{AllReduce{}, ParameterServer{}, at_step(10), at_fraction(0.1)};
  strategy.total_steps = 50;
  const base::Status status = strategy.validate(2, 0);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("back after step 5 would never happen"), std::string::npos)
      << status.error().message;
  strategy.total_steps = 500;
  EXPECT_TRUE(strategy.validate(2, 0).ok());
  strategy.total_steps = 100;
  EXPECT_FALSE(strategy.validate(2, 0).ok()) << "after the step that ends with the switch";
  strategy.kind = StrategySwitch{AllReduce{}, ParameterServer{}, at_step(10), at_step(10)};
  EXPECT_FALSE(strategy.validate(2, 0).ok()) << "the same step";
  strategy.kind = StrategySwitch{AllReduce{}, ParameterServer{}, at_step(10), at_step(11)};
  EXPECT_TRUE(strategy.validate(2, 0).ok());
}

TEST(Decider, VotesOnceAPolicyWantsAndForgetsOnAdvance) {
  auto scheduler = base::make_os_scheduler();
  Strategy strategy;
  strategy.kind = StrategySwitch{AllReduce{}, ParameterServer{}, at_step(3), at_step(6)};
  Decider decider(*scheduler, strategy);
  EXPECT_FALSE(decider.vote(2, 0));
  EXPECT_TRUE(decider.vote(3, 0));
  EXPECT_TRUE(decider.vote(4, 0)) << "a switch that had to wait is not lost";
  decider.advance(4);
  EXPECT_TRUE(std::holds_alternative<ParameterServer>(decider.phase()));
  EXPECT_EQ(decider.known_step(), 6);
  decider.advance(6);
  EXPECT_FALSE(decider.vote(7, 0)) << "step 3 has passed long before this phase";
}

TEST(Decider, APlateauThatCausedASwitchDoesNotCauseTheNext) {
  auto scheduler = base::make_os_scheduler();
  Strategy strategy;
  strategy.kind =
      StrategySwitch{AllReduce{}, ParameterServer{}, loss_plateau(2, 0.1), loss_plateau(2, 0.1)};
  Decider decider(*scheduler, strategy);
  const auto commit = [&](std::int64_t step, std::int64_t epoch) {
    ps::CommitInfo info;
    info.step = info.highest_step = step;
    info.epoch = info.earliest_epoch = epoch;
    info.loss = info.mean_loss = info.samples = 1;
    return decider.on_commit(info).has_value();
  };
  for (int epoch = 0; epoch < 3; ++epoch) {
    EXPECT_FALSE(decider.vote(epoch + 1, epoch));
    decider.add_reduced_loss(epoch, 1, 1);
  }
  EXPECT_TRUE(decider.vote(4, 3));
  decider.advance(4);
  EXPECT_FALSE(commit(5, 3));
  EXPECT_FALSE(commit(6, 4));
  EXPECT_FALSE(commit(7, 5));
  EXPECT_TRUE(commit(8, 6)) << "three epochs under the server";
}

TEST(Policies, ACustomOneNeedsAFunction) {
  Strategy strategy;
  strategy.kind =
      StrategySwitch{AllReduce{}, ParameterServer{}, custom_policy("mine", nullptr), nullptr};
  const base::Status status = strategy.validate(1, 0);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, base::ErrorCode::kInvalidArgument);
  EXPECT_NE(status.error().message.find("'mine'"), std::string::npos);
}

TEST(Decider, ServerCommitsCloseAnEpochWhenAllWorkersHaveLeftIt) {
  auto scheduler = base::make_os_scheduler();
  std::vector<double> seen;
  Strategy strategy;
  strategy.kind = StrategySwitch{ParameterServer{ps::Consistency::asp()}, AllReduce{},
                                 custom_policy("watch",
                                               [&](const Metrics& m) {
                                                 seen = m.epoch_losses;
                                                 return m.epoch_losses.size() == 1;
                                               }),
                                 nullptr};
  Decider decider(*scheduler, strategy);
  std::vector<std::int64_t> epochs(2, 0);
  const auto commit = [&](int worker, std::int64_t step, std::int64_t epoch, double loss) {
    epochs[static_cast<std::size_t>(worker)] = epoch;
    ps::CommitInfo info;
    info.worker = worker;
    info.step = info.highest_step = step;
    info.epoch = epoch;
    info.earliest_epoch = std::min(epochs[0], epochs[1]);
    info.loss = loss;
    info.samples = 2;
    return decider.on_commit(info);
  };
  EXPECT_FALSE(commit(0, 1, 0, 4.0));
  EXPECT_FALSE(commit(1, 1, 0, 2.0));
  EXPECT_FALSE(commit(0, 2, 1, 1.0)) << "worker 1 is still in epoch 0";
  EXPECT_EQ(commit(1, 3, 1, 1.0), 4);
  EXPECT_EQ(seen, std::vector<double>{3.0});
  EXPECT_FALSE(commit(0, 4, 1, 1.0)) << "announced once";
}

}  // namespace
}  // namespace gearshift::strategy
