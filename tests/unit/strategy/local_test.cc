// Local SGD: ranks train alone, and every so many steps take over the mean of their parameters.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "toy.h"

namespace gearshift::strategy {
namespace {

using testing::ElementsAre;
using toy::kFeatures;
using toy::Model;
using toy::Worker;

/// What ranks do under LocalSgd, one after the other: weights and bias behind each other.
class SideBySide {
 public:
  using Vector = std::vector<double>;

  SideBySide(int ranks, double outer_lr = 1, double outer_momentum = 0)
      : lr_(outer_lr), momentum_(outer_momentum) {
    const Model start;
    center_ = start.weights;
    center_.push_back(start.bias);
    outer_velocity_.assign(center_.size(), 0);
    models_.assign(static_cast<std::size_t>(ranks), center_);
    velocities_.assign(static_cast<std::size_t>(ranks), Vector(center_.size(), 0));
    samples_.assign(static_cast<std::size_t>(ranks), 0);
  }

  void step(int rank, int begin, int count) {
    const auto r = static_cast<std::size_t>(rank);
    Vector gradient(center_.size());
    toy::gradient(models_[r].data(), models_[r].back(), begin, count, gradient.data(),
                  gradient.back());
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      velocities_[r][i] = toy::kMomentum * velocities_[r][i] + gradient[i];
      models_[r][i] -= toy::kLr * velocities_[r][i];
    }
    samples_[r] += count;
  }

  void average() {
    double total = 0;
    for (const double samples : samples_) total += samples;
    for (std::size_t i = 0; i < center_.size(); ++i) {
      double change = 0;
      for (std::size_t r = 0; r < models_.size(); ++r) {
        if (total > 0) change += samples_[r] / total * (center_[i] - models_[r][i]);
      }
      outer_velocity_[i] = momentum_ * outer_velocity_[i] + change;
      const double nesterov = change + momentum_ * outer_velocity_[i];
      center_[i] -= lr_ * (momentum_ > 0 ? nesterov : change);
    }
    for (Vector& model : models_) model = center_;
    for (double& samples : samples_) samples = 0;
  }

  /// What leaving the phase does: rank 0's velocity for all.
  void share_state() {
    for (Vector& velocity : velocities_) velocity = velocities_[0];
  }

  Model model() const { return {Vector(center_.begin(), center_.end() - 1), center_.back()}; }

 private:
  double lr_, momentum_;
  Vector center_, outer_velocity_;
  std::vector<Vector> models_, velocities_;
  std::vector<double> samples_;
};

Strategy local(int every, double outer_lr = 1, double outer_momentum = 0) {
  Strategy strategy;
  strategy.kind = LocalSgd{every, outer_lr, outer_momentum};
  return strategy;
}

/// Another number of samples for each rank, and in each step.
int count_of(int rank, int k) { return 1 + (2 * rank + k) % 4; }
int begin_of(int rank, int k) { return 100 * rank + 5 * k; }

class Local : public testing::TestWithParam<int> {};

TEST_P(Local, IsTheMeanWeightedBySamples) {
  const int ranks = GetParam();
  for (const auto& [every_, lr, momentum] :
       std::vector<std::tuple<int, double, double>>{{1, 1, 0}, {4, 1, 0}, {3, 0.7, 0.9}}) {
    const int every = every_;  // lambdas of C++20 may capture no binding in all compilers
    SideBySide alone(ranks, lr, momentum);
    for (int k = 0; k < 24; ++k) {
      for (int r = 0; r < ranks; ++r) alone.step(r, begin_of(r, k), count_of(r, k));
      if ((k + 1) % every == 0) alone.average();
    }
    const Strategy strategy = local(every, lr, momentum);
    toy::run_ranks(ranks, 0, [&](int rank, Environment environment) {
      Worker worker(environment, strategy);
      EXPECT_TRUE(worker.replica->is_local());
      for (int k = 0; k < 24; ++k) {
        const StepReport report = worker.step(begin_of(rank, k), count_of(rank, k));
        EXPECT_EQ(report.averaged, (k + 1) % every == 0);
      }
      worker.expect_equals(alone.model());
      worker.ok(worker.replica->stop());
    });
  }
}

/// One step of each rank is one of all, by the linearity of SGD, where batches are equally large.
TEST_P(Local, InEachStepIsAllReduce) {
  const int ranks = GetParam();
  const Model alone = toy::train_alone(50, [&](int) { return 3 * ranks; });
  toy::run_ranks(ranks, 0, [&](int rank, Environment environment) {
    Worker worker(environment, local(1));
    for (int k = 0; k < 50; ++k) worker.step(3 * (ranks * k + rank), 3);
    worker.expect_equals(alone);
    worker.ok(worker.replica->stop());
  });
}

/// Ranks end at different steps, in the middle of a round; what they have learnt counts.
TEST_P(Local, JoinsWithWhatWasLearntSinceTheLastRound) {
  const int ranks = GetParam();
  const auto steps_of = [](int rank) { return 5 + 4 * rank; };
  const int most = steps_of(ranks - 1);
  SideBySide alone(ranks);
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (int k = 0; k < most; ++k) {
      for (int r = 0; r < ranks; ++r) {
        if (k < steps_of(r)) alone.step(r, begin_of(r, k), count_of(r, k));
      }
      if ((k + 1) % 3 == 0) alone.average();
    }
    if (most % 3 != 0) alone.average();
  }
  toy::run_ranks(ranks, 0, [&](int rank, Environment environment) {
    Worker worker(environment, local(3));
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (int k = 0; k < steps_of(rank); ++k) {
        worker.step(begin_of(rank, k), count_of(rank, k), epoch);
      }
      const auto joined = worker.replica->join();
      ASSERT_TRUE(joined.ok()) << joined.error().to_string();
      EXPECT_EQ(joined->steps_differ, environment.workers_count > 1);
      EXPECT_EQ(joined->root, base::Rank(environment.workers_count - 1));
      EXPECT_EQ(worker.replica->stats().step, most * (epoch + 1));
    }
    worker.expect_equals(alone.model());
    worker.ok(worker.replica->stop());
  });
}

TEST_P(Local, FinishesWithARound) {
  const int ranks = GetParam();
  SideBySide alone(ranks);
  for (int k = 0; k < 5; ++k) {
    for (int r = 0; r < ranks; ++r) alone.step(r, begin_of(r, k), count_of(r, k));
    if (k == 3) alone.average();
  }
  alone.average();
  toy::run_ranks(ranks, 0, [&](int rank, Environment environment) {
    Worker worker(environment, local(4));
    for (int k = 0; k < 5; ++k) worker.step(begin_of(rank, k), count_of(rank, k));
    worker.ok(worker.replica->finish());
    worker.expect_equals(alone.model());
    worker.ok(worker.replica->stop());
  });
}

/// Between phases, at steps that are no multiples of a round's.
TEST_P(Local, IsAPhaseOfASwitch) {
  const int ranks = GetParam();
  const Phase others[] = {AllReduce{}, ParameterServer{ps::Consistency::bsp()}};
  for (const Phase& other : others) {
    const auto all_of = [&](int k) { return std::pair(3 * ranks * k, 3 * ranks); };
    SideBySide alone(ranks);
    for (int k = 0; k < 30; ++k) {
      const bool is_local = k >= 10 && k < 21;
      for (int r = 0; r < ranks; ++r) {
        const auto [begin, count] = all_of(k);
        if (is_local) {
          alone.step(r, begin + 3 * r, 3);
        } else {
          alone.step(r, begin, count);
        }
      }
      if (!is_local || k == 13 || k == 17 || k == 20) alone.average();
      if (k == 20) alone.share_state();
    }
    Strategy strategy;
    strategy.kind = StrategySwitch{other, LocalSgd{4}, at_step(10), at_step(21)};
    toy::run_ranks(ranks, 0, [&](int rank, Environment environment) {
      Worker worker(environment, strategy);
      std::vector<std::int64_t> averaged;
      for (int k = 0; k < 30; ++k) {
        const StepReport report = worker.step(3 * (ranks * k + rank), 3);
        if (report.averaged) averaged.push_back(report.step);
        EXPECT_EQ(worker.replica->is_local(), report.step >= 10 && report.step < 21);
      }
      EXPECT_THAT(averaged, ElementsAre(14, 18, 21));
      worker.expect_equals(alone.model());
      EXPECT_EQ(worker.replica->stats().switches.size(), 2U);
      worker.ok(worker.replica->stop());
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Local, testing::Values(1, 2, 3, 5));

TEST(LocalSgd, EndsWithARoundWhereTheNumberOfStepsIsKnown) {
  Strategy strategy = local(4);
  strategy.total_steps = 6;
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, strategy);
    std::vector<std::int64_t> averaged;
    for (int k = 0; k < 6; ++k) {
      const StepReport report = worker.step(begin_of(rank, k), 2);
      if (report.averaged) averaged.push_back(report.step);
    }
    EXPECT_THAT(averaged, ElementsAre(4, 6));
    worker.ok(worker.replica->stop());
  });
}

TEST(LocalSgd, WaitsLongerThanTheTimeoutForARankThatMakesSteps) {
  const auto body = [](int rank, Environment environment) {
    Worker worker(environment, local(4));
    for (int k = 0; k < 8; ++k) {
      if (rank == 1) environment.workers->scheduler().sleep_for(std::chrono::milliseconds(700));
      worker.step(begin_of(rank, k), 2);
    }
    worker.ok(worker.replica->stop());
  };
  toy::run_ranks(2, 0, body, std::chrono::seconds(2));
}

TEST(LocalSgd, ARankThatLeavesOutAStepIsBehindAndNotLost) {
  std::vector<std::vector<double>> finals(2);
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, local(4));
    for (int k = 0; k < 9; ++k) {
      if (rank == 1 && k == 2) continue;
      worker.step(begin_of(rank, k), 2);
    }
    EXPECT_TRUE(worker.replica->join().ok());
    EXPECT_EQ(worker.replica->stats().step, 9);
    finals[static_cast<std::size_t>(rank)].assign(worker.weights(), worker.weights() + kFeatures);
  });
  EXPECT_EQ(finals[0], finals[1]);
}

/// A step that has no weight: its gradient was not finite, say.
TEST(LocalSgd, StepsThatSkipHaveNoWeight) {
  SideBySide alone(2);
  for (int k = 0; k < 4; ++k) {
    alone.step(0, begin_of(0, k), 2);
    if (k < 2) alone.step(1, begin_of(1, k), 2);
  }
  alone.average();
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, local(4));
    for (int k = 0; k < 4; ++k) {
      if (rank == 0 || k < 2) {
        worker.step(begin_of(rank, k), 2);
        continue;
      }
      StepInput input;
      input.skip = true;
      input.hypers = Worker::hypers();
      const auto report = worker.replica->step(input);
      ASSERT_TRUE(report.ok()) << report.error().to_string();
      EXPECT_TRUE(report->skipped);
    }
    worker.expect_equals(alone.model());
    worker.ok(worker.replica->stop());
  });
}

Strategy until(std::shared_ptr<Policy> policy, int every) {
  Strategy strategy;
  strategy.kind = StrategySwitch{LocalSgd{every}, AllReduce{}, std::move(policy), nullptr};
  return strategy;
}

/// Joins begin the count of a round anew, so that no step has one.
TEST(LocalSgd, AsksAPolicyAlsoWhereEpochsAreShorterThanRounds) {
  for (const bool by_step : {false, true}) {
    toy::run_ranks(2, 0, [&](int rank, Environment environment) {
      const auto policy = by_step ? at_step(11) : loss_plateau(1, 1e9);
      Worker worker(environment, until(policy, 100));
      std::vector<std::int64_t> switched;
      for (int epoch = 0; epoch < 4; ++epoch) {
        // Rank 0 jumps over step 11 when it takes over the number of steps.
        for (int k = 0; k < (rank == 0 ? 3 : 6); ++k) {
          const StepReport report = worker.step(begin_of(rank, k), 2, epoch);
          if (report.switched) switched.push_back(report.switched->step);
        }
        ASSERT_TRUE(worker.replica->join().ok());
        if (!worker.replica->is_local()) worker.optimizer->reset();  // on all: equal again
      }
      EXPECT_EQ(switched, std::vector<std::int64_t>{13});
      worker.ok(worker.replica->stop());
    });
  }
}

/// Without joins: what a round tells of an epoch's end is of that epoch.
TEST(LocalSgd, DoesNotMixTheLossesOfEpochs) {
  std::vector<double> seen;
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    const auto look = custom_policy("look", [&](const Metrics& metrics) {
      if (rank == 0) seen = metrics.epoch_losses;
      return false;
    });
    Worker worker(environment, until(look, 3));
    for (int k = 0; k < 20; ++k) {
      ASSERT_TRUE(worker.replica->backward_begin(2).ok());
      ASSERT_TRUE(worker.replica->backward_end({false, false}).ok());
      StepInput input;
      input.loss = k / 4;  // NOLINT: the epoch
      input.epoch = k / 4;
      ASSERT_TRUE(worker.replica->step(input).ok());
    }
    worker.ok(worker.replica->stop());
  });
  ASSERT_GE(seen.size(), 3U);
  for (std::size_t epoch = 0; epoch < seen.size(); ++epoch) {
    EXPECT_EQ(seen[epoch], static_cast<double>(epoch));
  }
}

void write_weights(Worker& worker, double value) {
  std::vector<double> weights(kFeatures, value);
  std::memcpy(worker.replica->parameter(0).data(), weights.data(), kFeatures * sizeof(double));
}

/// A checkpoint that is loaded for an evaluation, say; but steps without samples teach nothing.
TEST(LocalSgd, WhatIsWrittenAfterTheLastRoundStays) {
  for (const double momentum : {0.0, 0.5}) {
    toy::run_ranks(2, 0, [&](int rank, Environment environment) {
      Worker worker(environment, local(2, 1, momentum));
      for (int k = 0; k < 4; ++k) worker.step(begin_of(rank, k), 2);
      write_weights(worker, 0.25);
      worker.ok(worker.replica->store_parameters());
      ASSERT_TRUE(worker.replica->join().ok());
      EXPECT_EQ(worker.weights()[0], 0.25);
      worker.step(begin_of(rank, 4), 0);
      EXPECT_NE(worker.weights()[0], 0.25);
      ASSERT_TRUE(worker.replica->join().ok());
      EXPECT_EQ(worker.weights()[0], 0.25);
      write_weights(worker, 0.5);
      worker.ok(worker.replica->finish());
      EXPECT_EQ(worker.weights()[0], 0.5);
      worker.ok(worker.replica->stop());
    });
  }
}

/// Where the only round is that in which the last one ends, nobody is active any more.
TEST(LocalSgd, BuffersAreThoseOfARankWithMostSteps) {
  for (const bool joins : {true, false}) {
    toy::run_ranks(3, 0, [&](int rank, Environment environment) {
      Worker worker(environment, local(8));
      const double mine = rank;
      std::memcpy(worker.replica->buffers().data(), &mine, sizeof mine);
      for (int k = 0; k < 2 * rank; ++k) worker.step(begin_of(rank, k), 2);
      if (joins) {
        ASSERT_TRUE(worker.replica->join().ok());
      } else {
        worker.ok(worker.replica->finish());
      }
      double buffer = 0;
      std::memcpy(&buffer, worker.replica->buffers().data(), sizeof buffer);
      EXPECT_EQ(buffer, 2);
      worker.ok(worker.replica->stop());
    });
  }
}

TEST(LocalSgd, RefusesWhatCannotBe) {
  for (const LocalSgd& wrong :
       {LocalSgd{0}, LocalSgd{1, 0}, LocalSgd{1, 1, 1}, LocalSgd{1, 1, -0.1},
        LocalSgd{1, std::nan("")}, LocalSgd{1, 1, std::nan("")}}) {
    Strategy strategy;
    strategy.kind = wrong;
    EXPECT_EQ(strategy.validate(2, 0).error().code, base::ErrorCode::kInvalidArgument);
  }
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    ReplicaOptions options;
    options.parameters = {{"weights", {3}, base::DType::kF32, 0}};
    options.strategy.kind = StrategySwitch{AllReduce{}, LocalSgd{2}, at_step(3), nullptr};
    const auto made = Replica::create(environment, std::move(options));
    ASSERT_FALSE(made.ok());
    EXPECT_THAT(made.error().message, testing::HasSubstr("needs the optimizer's state"));
  });
}

}  // namespace
}  // namespace gearshift::strategy
