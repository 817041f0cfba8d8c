// Trainings that are not simulated to the end because their mean step time is known, against the
// same simulated step by step.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "accounts.h"
#include "sim/steady_state.h"

namespace gearshift::sim::testing {
namespace {

using collectives::Algorithm;

constexpr double kTolerance = 0.01;

/// Of one worker, from an account.
struct Steps {
  std::vector<StepTimes> times;
  double exposed = 0;
  double mean() const {
    return (times.back().end - times.front().begin) / static_cast<double>(times.size());
  }
};

std::vector<Steps> steps_of(const Account& account, int count) {
  std::vector<Steps> workers;
  for (std::size_t i = 1; i < account.times.size();) {
    Steps& worker = workers.emplace_back();
    worker.exposed = account.times[i];
    i += 2;
    for (int step = 0; step < count; ++step, i += 3) {
      worker.times.push_back({account.times[i], account.times[i + 1], account.times[i + 2]});
    }
  }
  return workers;
}

double mean_step(const std::vector<Steps>& workers) {
  double total = 0;
  for (const Steps& worker : workers) total += worker.mean();
  return total / static_cast<double>(workers.size());
}

/// A share of the model sends fewer messages, which is what takes time to simulate.
SimulationOptions estimating(SimulationOptions options, int steps = 200,
                             std::int64_t scaled_down_by = 4) {
  options.steps = steps;
  options.steady_tolerance = kTolerance;
  return scaled_down(std::move(options), scaled_down_by);
}

SimulationOptions varying(SimulationOptions options, Variability variability,
                          std::uint64_t seed = 1) {
  options.cluster.variability = std::move(variability);
  options.seed = seed;
  return options;
}

Variability normal(double spread) { return {.kind = Variability::Kind::kNormal, .spread = spread}; }

/// Steps follow each other, and each computes before it ends.
void expect_plausible(const std::vector<Steps>& workers) {
  for (const Steps& worker : workers) {
    for (std::size_t i = 0; i < worker.times.size(); ++i) {
      const StepTimes& step = worker.times[i];
      EXPECT_LT(step.begin, step.computed);
      EXPECT_LE(step.computed, step.end);
      const double before = i > 0 ? worker.times[i - 1].end : step.begin;
      EXPECT_DOUBLE_EQ(step.begin, before);
    }
  }
}

/// What an estimate is off by, as a share; the rest is checked here. 0: all was simulated.
struct Compared {
  Account estimate;
  double error = 0;
};

Compared compare(const SimulationOptions& options) {
  Compared found{account_of(options, false), 0};
  if (!found.estimate.estimated) return found;
  const Account full = account_of(options, true);
  EXPECT_EQ(full.simulated, options.steps);
  EXPECT_LT(2 * found.estimate.simulated, options.steps + 4);
  EXPECT_GT(found.estimate.half_width, 0);
  EXPECT_LE(found.estimate.half_width, options.steady_tolerance);
  const auto all = steps_of(full, options.steps), some = steps_of(found.estimate, options.steps);
  EXPECT_EQ(some.size(), all.size());
  expect_plausible(some);
  found.error = std::abs(mean_step(some) / mean_step(all) - 1);
  EXPECT_LT(found.error, 3 * options.steady_tolerance);
  EXPECT_NEAR(found.estimate.times[0], full.times[0], 3 * options.steady_tolerance * full.times[0]);
  return found;
}

Kind tree() { return strategy::AllReduce{Algorithm::kTree}; }

/// Workers whose messages meet differently in every step.
TEST(EstimatedSteps, WithoutRandomness) {
  for (const auto& [kind, steps] :
       {std::pair{server(ps::Consistency::bsp()), 400}, {server(ps::Consistency::asp()), 1000}}) {
    const SimulationOptions options = estimating(options_for(16, kind), steps, 2);
    const Compared found = compare(options);
    EXPECT_TRUE(found.estimate.estimated);
    EXPECT_LE(found.error, found.estimate.half_width);
    EXPECT_EQ(account_of(options, false).times, found.estimate.times);
  }
}

/// The mean is within the interval in 95 % of the cases, as far as so few of them tell, and never
/// off by more than the tolerance.
TEST(EstimatedSteps, OfEveryKindOfVariability) {
  const std::vector<Variability> kinds = {
      normal(0.05),
      {.kind = Variability::Kind::kLogNormal, .spread = 0.05},
      {.kind = Variability::Kind::kEmpirical, .factors = {0.9, 0.95, 1, 1, 1, 1.02, 1.05, 1.2}},
      {.kind = Variability::Kind::kConstant},
  };
  const std::vector<std::pair<Kind, int>> strategies = {{tree(), 240},
                                                        {server(ps::Consistency::bsp()), 240},
                                                        {server(ps::Consistency::ssp(2), 1), 600},
                                                        {server(ps::Consistency::asp()), 600}};
  int estimates = 0, covered = 0;
  for (const auto& [kind, steps] : strategies) {
    for (const Variability& variability : kinds) {
      for (const std::uint64_t seed : {1, 2, 3}) {
        if (variability.kind == Variability::Kind::kConstant && seed > 1) continue;
        const Compared found =
            compare(varying(estimating(options_for(5, kind), steps, 8), variability, seed));
        if (!found.estimate.estimated) continue;
        ++estimates;
        EXPECT_LE(found.error, kTolerance);
        if (found.error <= found.estimate.half_width) ++covered;
      }
    }
  }
  EXPECT_GE(estimates, 30);
  EXPECT_GE(covered, 0.9 * estimates);
}

TEST(EstimatedSteps, AreTheSameForTheSameSeed) {
  const auto options = [](std::uint64_t seed) {
    return varying(estimating(options_for(4, server(ps::Consistency::asp())), 600), normal(0.03),
                   seed);
  };
  const Account first = account_of(options(7), false), again = account_of(options(7), false);
  EXPECT_TRUE(first.estimated);
  EXPECT_GE(first.period, SteadyState::kLeastLoose);
  EXPECT_EQ(first.times, again.times);
  EXPECT_EQ(first.counts, again.counts);
  EXPECT_NE(account_of(options(8), false).times, first.times);
}

/// The tighter the tolerance, the more is simulated.
TEST(EstimatedSteps, AreAsManyAsTheToleranceAllows) {
  std::int64_t before = 0;
  for (const double tolerance : {0.05, 0.01, 0.003, 0.0}) {
    SimulationOptions options = varying(estimating(options_for(4, tree()), 400), normal(0.05));
    options.steady_tolerance = tolerance;
    const Account account = account_of(options, false);
    EXPECT_EQ(account.estimated, account.simulated < options.steps);
    EXPECT_GE(account.simulated, before) << tolerance;
    before = account.simulated;
  }
  EXPECT_EQ(before, 400);
}

/// What repeats exactly is left out as such.
TEST(EstimatedSteps, ComeSecond) {
  const Account account = account_of(estimating(options_for(4, tree())), false);
  EXPECT_GT(account.period, 0);
  EXPECT_FALSE(account.estimated);
  EXPECT_EQ(account.half_width, 0);
}

/// Workers who wait for nobody go at their own pace, and the slow one alone in the end.
TEST(EstimatedSteps, OfWorkersThatDriftApart) {
  for (const auto& [spread, shards] : {std::pair{0.0, 1}, {0.0, 0}, {0.03, 0}}) {
    const SimulationOptions options =
        varying(uneven(estimating(options_for(4, server(ps::Consistency::asp(), shards)), 1000, 1)),
                normal(spread));
    const Account some = account_of(options, false), full = account_of(options, true);
    ASSERT_TRUE(some.estimated) << spread << ' ' << shards;
    EXPECT_NEAR(some.times[0], full.times[0], 0.02 * full.times[0]);
    const auto estimated = steps_of(some, options.steps), simulated = steps_of(full, options.steps);
    expect_plausible(estimated);
    for (std::size_t i = 0; i < simulated.size(); ++i) {
      EXPECT_NEAR(estimated[i].mean(), simulated[i].mean(), 0.02 * simulated[i].mean()) << i;
      EXPECT_NEAR(estimated[i].exposed, simulated[i].exposed, 0.02 * simulated[i].times.back().end);
    }
  }
}

/// Who may lead by a few steps only must not be taken to be faster for ever.
TEST(EstimatedSteps, WaitForALeadToBeUsedUp) {
  SimulationOptions options = estimating(options_for(4, server(ps::Consistency::ssp(3), 1)), 600);
  options = slow_model(options);
  options.cluster.hosts[1].speed = 0.95;
  const Account some = account_of(options, false), full = account_of(options, true);
  EXPECT_NEAR(some.times[0], full.times[0], 0.005 * full.times[0]);
}

/// A bucket that empties slowly is no steady state, however equal steps are until then.
TEST(EstimatedSteps, WaitForTokenBuckets) {
  for (const std::int64_t burst : {300'000'000, 1'000'000'000}) {
    SimulationOptions options = estimating(options_for(4, server(ps::Consistency::bsp())), 300, 1);
    for (Host& host : options.cluster.hosts) {
      host.bandwidth = 1.25e8;
      host.burst = burst;
    }
    const Compared found = compare(varying(options, normal(0.02)));
    EXPECT_LE(found.error, found.estimate.estimated ? found.estimate.half_width : 0) << burst;
  }
}

/// That a rare step takes long is known of the factors, also if there was none yet.
TEST(EstimatedSteps, KnowOfRareFactors) {
  Variability rare{.kind = Variability::Kind::kEmpirical, .factors = std::vector<double>(100, 1)};
  rare.factors.back() = 20;
  for (const std::uint64_t seed : {1, 2, 3, 4, 5, 6}) {
    const Compared found = compare(varying(estimating(options_for(2, tree()), 400), rare, seed));
    EXPECT_LE(found.error, kTolerance) << seed;
  }
}

TEST(EstimatedSteps, HaveAMultipleOfAKnownPeriod) {
  SimulationOptions options = varying(estimating(options_for(4, tree()), 400), normal(0.02));
  options.cluster.stragglers.push_back(
      {.host = "node-1", .kind = Straggler::Kind::kPeriodic, .period = 6, .length = 2});
  const Compared found = compare(options);
  EXPECT_TRUE(found.estimate.estimated);
  EXPECT_EQ(found.estimate.period % 6, 0);
  EXPECT_EQ((found.estimate.last - found.estimate.first + 1) % 6, 0);
  EXPECT_LE(found.error, found.estimate.half_width);
}

/// Steps of local SGD are unequal by their place between two rounds: whole rounds stand for others.
TEST(EstimatedSteps, OfLocalSgdAreWholeRounds) {
  int covered = 0;
  constexpr int kSeeds = 6;
  for (const std::uint64_t seed : {1, 2, 3, 4, 5, 6}) {
    SimulationOptions options = varying(
        estimating(options_for(5, strategy::LocalSgd{.every = 4}), 480), normal(0.05), seed);
    options.strategy.total_steps = options.steps;
    const Compared found = compare(options);
    EXPECT_TRUE(found.estimate.estimated);
    EXPECT_EQ(found.estimate.period % 4, 0);
    EXPECT_EQ((found.estimate.last - found.estimate.first + 1) % 4, 0);
    EXPECT_LE(found.error, kTolerance);
    if (found.error <= found.estimate.half_width) ++covered;
    options.strategy.total_steps = options.steps = 479;
    expect_all_simulated(options);
  }
  EXPECT_GE(covered, kSeeds - 1);
}

TEST(EstimatedSteps, BeginAfterAllThatIsKnownToChange) {
  SimulationOptions options = varying(estimating(options_for(4, tree())), normal(0.01));
  options.cluster.stragglers.push_back({.host = "node-1", .from_step = 12, .to_step = 40});
  const Compared found = compare(options);
  EXPECT_TRUE(found.estimate.estimated);
  EXPECT_GT(found.estimate.first - found.estimate.period, 41);
  EXPECT_LE(found.error, found.estimate.half_width);
}

TEST(EstimatedSteps, AreNotWhereEachIsAskedForOrMayBeUnlikeTheOthers) {
  const SimulationOptions base = varying(estimating(options_for(4, tree())), normal(0.01));
  SimulationOptions options = base;
  options.cluster.stragglers.push_back({.host = "node-0", .kind = Straggler::Kind::kRandom});
  expect_all_simulated(options);
  options = base;
  options.cluster.failures.push_back({.host = "node-2", .at = 1000});
  expect_all_simulated(options);
  options = base;
  options.timeline = true;
  expect_all_simulated(options);
  options = base;
  options.steps = 40;  // not worth it
  expect_all_simulated(options);
}

}  // namespace
}  // namespace gearshift::sim::testing
