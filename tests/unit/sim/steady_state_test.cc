// Trainings whose repeating steps are left out, against the same simulated step by step.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "accounts.h"

namespace gearshift::sim::testing {
namespace {

using collectives::Algorithm;

/// Simulates with and without the steps that repeat, and compares all there is. Returns what was
/// left out. `tolerance` of times: in proportion to those of the whole training.
Account expect_same(const SimulationOptions& options, double tolerance = 1e-12) {
  const Account full = account_of(options, true);
  Account skipping = account_of(options, false);
  EXPECT_EQ(full.simulated, options.steps);
  EXPECT_EQ(full.period, 0);
  const std::int64_t skipped = skipping.period > 0 ? skipping.last - skipping.first + 1 : 0;
  EXPECT_EQ(skipping.simulated, options.steps - skipped);
  EXPECT_EQ(skipping.counts, full.counts);
  EXPECT_EQ(skipping.times.size(), full.times.size());
  double most = 0;
  for (std::size_t i = 0; i < std::min(full.times.size(), skipping.times.size()); ++i) {
    most = std::max(most, std::abs(skipping.times[i] - full.times[i]) / full.times[0]);
  }
  EXPECT_LE(most, tolerance);
  return skipping;
}

void expect_skips(const SimulationOptions& options, int simulated, double tolerance = 1e-12) {
  const Account account = expect_same(options, tolerance);
  EXPECT_GT(account.period, 0);
  EXPECT_LE(account.simulated, simulated);
}

TEST(SteadyState, AllReduces) {
  for (const int workers : {5, 8}) {
    for (const Algorithm algorithm : {Algorithm::kRing, Algorithm::kTree, Algorithm::kRabenseifner,
                                      Algorithm::kRecursiveDoubling}) {
      const SimulationOptions options = options_for(workers, strategy::AllReduce{algorithm});
      expect_same(options);
      expect_skips(uneven(options), 8);
    }
  }
  expect_skips(options_for(16, strategy::AllReduce{Algorithm::kTree}), 8);
  expect_skips(options_for(16, strategy::AllReduce{Algorithm::kRabenseifner}), 10);
  expect_skips(options_for(1, strategy::AllReduce{}), 8);
}

TEST(SteadyState, HostByHost) {
  SimulationOptions options = options_for(4, strategy::AllReduce{Algorithm::kHierarchical});
  for (Host& host : options.cluster.hosts) host.workers = 2;
  expect_same(options);
  expect_skips(uneven(slow_model(options)), 8);
}

TEST(SteadyState, Bsp) {
  for (const int shards : {1, 2, 0}) {
    const SimulationOptions options = options_for(6, server(ps::Consistency::bsp(), shards));
    expect_same(options);
    expect_skips(uneven(slow_model(options)), 8);
  }
  expect_skips(options_for(16, server(ps::Consistency::bsp(), 1)), 8);
  expect_skips(uneven(options_for(6, server(ps::Consistency::bsp()), 2)), 12);
}

/// The bound holds the fast workers back, some steps ahead of the slow one, who ends alone.
TEST(SteadyState, Ssp) {
  for (const int bound : {1, 3}) {
    for (const int shards : {1, 0}) {
      const auto kind = server(ps::Consistency::ssp(bound), shards);
      expect_skips(uneven(slow_model(options_for(6, kind))), 16);
    }
  }
  expect_skips(uneven(slow_model(options_for(6, server(ps::Consistency::ssp(2)), 2))), 16);
}

TEST(SteadyState, Asp) {
  for (const int shards : {1, 2, 0}) {
    expect_same(options_for(4, server(ps::Consistency::asp(), shards)));
    expect_same(uneven(options_for(4, server(ps::Consistency::asp(), shards))));
  }
  SimulationOptions calm = slow_model(options_for(2, server(ps::Consistency::asp()), 1));
  expect_skips(calm, 20);
  // Who does twice as many steps as the others has a step in common with nobody.
  expect_all_simulated(uneven(calm));
}

TEST(SteadyState, UnderMaxMinFairness) {
  for (const Kind& kind :
       {Kind(strategy::AllReduce{Algorithm::kRing}), Kind(strategy::AllReduce{Algorithm::kTree}),
        server(ps::Consistency::bsp(), 1), server(ps::Consistency::ssp(1))}) {
    SimulationOptions options = uneven(slow_model(options_for(4, kind)));
    options.sharing = Sharing::kMaxMin;
    expect_skips(options, 20, 1e-6);  // SimGrid's own rounding is seen here
  }
}

TEST(SteadyState, UnequalLinks) {
  for (const Kind& kind :
       {Kind(strategy::AllReduce{Algorithm::kRing}), server(ps::Consistency::bsp(), 1)}) {
    SimulationOptions options = options_for(8, kind);
    options.cluster.zones.push_back(
        {.name = "far", .parent = "", .bandwidth = 4e8, .latency = 1e-3});
    for (int i : {5, 6, 7}) options.cluster.hosts[static_cast<std::size_t>(i)].zone = "far";
    options.cluster.hosts[2].bandwidth = 3e8;
    expect_skips(options, 20);
  }
}

/// What a bucket lets through beyond the rate makes steps equal, until it is empty.
TEST(SteadyState, TokenBucketsThatEmpty) {
  for (const std::int64_t burst : {100'000, 300'000'000, 2'000'000'000}) {
    SimulationOptions options = options_for(4, server(ps::Consistency::bsp(), 1));
    for (Host& host : options.cluster.hosts) {
      host.bandwidth = 1.25e8;
      host.burst = burst;
    }
    expect_same(options, 1e-8);
  }
}

TEST(SteadyState, StragglersThatComeAndGo) {
  SimulationOptions options = options_for(4, strategy::AllReduce{Algorithm::kTree});
  options.cluster.stragglers.push_back({.host = "node-1", .from_step = 12, .to_step = 20});
  EXPECT_GT(expect_same(options).first, 21);
  options.cluster.stragglers[0].to_step = 0;
  const std::int64_t first = expect_same(options).first;
  EXPECT_GT(first, 12);
  EXPECT_LT(first, 20);
  options.cluster.stragglers[0] = {
      .host = "node-1", .kind = Straggler::Kind::kPeriodic, .period = 6, .length = 2};
  EXPECT_EQ(expect_same(options).period, 6);
  // Of the product of both, only the lower 64 bits would be left: -6.
  options.cluster.stragglers.push_back(
      {.host = "node-2", .kind = Straggler::Kind::kPeriodic, .period = INT64_MAX});
  expect_all_simulated(options);
  options.cluster.stragglers.pop_back();
  options.cluster.stragglers[0].from_step = 1000;  // never
  expect_skips(options, 8);
}

TEST(SteadyState, SwitchesAtAKnownStep) {
  strategy::StrategySwitch both;
  both.start = strategy::AllReduce{Algorithm::kTree};
  both.then = strategy::ParameterServer{.shards = 1};
  both.policy = strategy::at_step(10);
  EXPECT_GT(expect_same(options_for(4, both)).first, 12);
  both.back = strategy::at_step(25);
  EXPECT_GT(expect_same(options_for(4, both)).first, 27);
  both.policy = strategy::loss_plateau();
  expect_all_simulated(options_for(4, both));
}

SimulationOptions local_sgd(int every, int steps, int workers = 5) {
  SimulationOptions options = options_for(workers, strategy::LocalSgd{.every = every});
  options.steps = steps;
  options.strategy.total_steps = steps;
  return options;
}

TEST(SteadyState, LocalSgd) {
  for (const int every : {1, 2, 8, 16}) {
    const Account found = expect_same(uneven(local_sgd(every, 192)));
    EXPECT_GT(found.period, 0);
    EXPECT_EQ(found.period % every, 0);
    EXPECT_LE(found.simulated, 4 * every + 8);
  }
  expect_skips(local_sgd(8, 192, 1), 40);
  strategy::LocalSgd outer{.every = 8, .outer_lr = 0.7, .outer_momentum = 0.9};
  outer.compression = strategy::Compression::kBf16;
  SimulationOptions options = local_sgd(8, 192);
  options.strategy.kind = outer;
  expect_skips(uneven(options), 60);
  options.sharing = Sharing::kMaxMin;
  expect_skips(uneven(slow_model(options)), 120, 1e-6);
}

/// The last round would come too late if steps before it were left out.
TEST(SteadyState, LocalSgdWhoseLastRoundComesEarlyIsSimulated) {
  expect_all_simulated(local_sgd(8, 191));
  expect_all_simulated(local_sgd(200, 192));
  SimulationOptions untold = uneven(local_sgd(8, 191));
  untold.strategy.total_steps = 0;
  expect_skips(untold, 60);
}

TEST(SteadyState, LocalSgdWithPeriodicStragglers) {
  SimulationOptions options = uneven(local_sgd(4, 120));
  options.cluster.stragglers.push_back(
      {.host = "node-1", .kind = Straggler::Kind::kPeriodic, .period = 6, .length = 2});
  const Account found = expect_same(options);
  EXPECT_GT(found.period, 0);
  EXPECT_EQ(found.period % 12, 0);
  options.cluster.stragglers[0] = {.host = "node-1", .from_step = 30, .to_step = 41};
  const std::int64_t first = expect_same(options).first;
  EXPECT_GT(first, 42);
  EXPECT_LT(first, 70);
}

TEST(SteadyState, SwitchesToAndFromLocalSgd) {
  strategy::StrategySwitch both;
  both.start = strategy::AllReduce{Algorithm::kTree};
  both.then = strategy::LocalSgd{.every = 4};
  both.policy = strategy::at_step(10);
  const auto with = [&both](int steps) {
    // Workers that are alike take turns at being the last by nanoseconds, for long.
    SimulationOptions options = uneven(options_for(4, both));
    options.steps = steps;
    options.strategy.total_steps = steps;
    return options;
  };
  const Account found = expect_same(with(110));
  EXPECT_GT(found.first, 14);
  EXPECT_EQ(found.period % 4, 0);
  EXPECT_GT(found.period, 0);
  expect_all_simulated(with(112));  // rounds count from the switch on
  std::swap(both.start, both.then);
  EXPECT_GT(expect_same(with(112)).period, 0);
  both.back = strategy::at_step(22);
  EXPECT_GT(expect_same(with(122)).period, 0);
  both.then = strategy::ParameterServer{.shards = 1};
  EXPECT_GT(expect_same(with(122)).period, 0);
}

TEST(SteadyState, IsNotWhereStepsVaryOrEachIsAskedFor) {
  const SimulationOptions regular = options_for(4, strategy::AllReduce{Algorithm::kTree});
  expect_skips(regular, 8);
  SimulationOptions options = regular;
  options.cluster.variability = Variability{.kind = Variability::Kind::kNormal, .spread = 1e-3};
  expect_all_simulated(options);
  options = regular;
  options.cluster.stragglers.push_back({.host = "node-0", .kind = Straggler::Kind::kRandom});
  expect_all_simulated(options);
  options = regular;
  options.cluster.failures.push_back({.host = "node-2", .at = 1000});
  expect_all_simulated(options);
  options = regular;
  options.timeline = true;
  expect_all_simulated(options);
}

TEST(SteadyState, TakesATolerance) {
  SimulationOptions options = options_for(2, strategy::AllReduce{});
  options.steady_tolerance = 1;
  EXPECT_EQ(simulate(options).error().code, base::ErrorCode::kInvalidArgument);
}

TEST(SteadyState, ProgressEndsWithTheLastStep) {
  SimulationOptions options = options_for(4, strategy::AllReduce{Algorithm::kTree});
  in_child([&] {
    std::vector<int> steps;
    options.on_step = [&steps](int step) { steps.push_back(step); };
    ASSERT_TRUE(simulate(options).ok());
    EXPECT_TRUE(std::is_sorted(steps.begin(), steps.end()));
    EXPECT_EQ(steps.back(), options.steps);
    EXPECT_LT(steps.size(), 10u);
  });
}

}  // namespace
}  // namespace gearshift::sim::testing
