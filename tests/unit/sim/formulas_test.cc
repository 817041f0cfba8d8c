// On ideal links, which cost nothing but the time of the bytes, algorithms take what their formulas
// say.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>

#include "clusters.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/sim/simulate.h"
#include "in_child.h"
#include "sim/job.h"

namespace gearshift::sim::testing {
namespace {

constexpr double kBandwidth = 1e9;
constexpr double kTolerance = 1e-3;
constexpr std::size_t kStack = 256 * 1024;

/// Seconds that an all-reduce of phantoms takes on ranks of a cluster.
double all_reduce_seconds(const Cluster& cluster, std::size_t bytes,
                          collectives::Algorithm algorithm) {
  auto job = Job::create(cluster, std::chrono::hours(1), kStack);
  EXPECT_TRUE(job.ok());
  if (!job) return 0;
  base::TimePoint end;
  const base::Status status = (*job)->run([&](int, strategy::Environment environment) {
    const base::Bytes data(static_cast<std::byte*>(nullptr), bytes);
    const base::Status done =
        collectives::all_reduce(*environment.world, data, base::DType::kF32, base::ReduceOp::kSum,
                                {.algorithm = algorithm});
    end = std::max(end, (*job)->scheduler().now());
    return done;
  });
  EXPECT_TRUE(status.ok()) << status.error().to_string();
  return base::to_seconds(end.since_origin);
}

void expect_near(double seconds, double formula, double tolerance = kTolerance) {
  EXPECT_NEAR(seconds, formula, tolerance * formula);
}

class Formulas : public ::testing::TestWithParam<int> {
 protected:
  int n() const { return GetParam(); }
  /// Elements that all algorithms divide without a rest, in segments of equal size.
  std::size_t bytes() const { return static_cast<std::size_t>(n()) * 4 * (1 << 20); }
};

TEST_P(Formulas, Ring) {
  const double formula = 2.0 * (n() - 1) / n() * static_cast<double>(bytes()) / kBandwidth;
  in_child([&] {
    expect_near(
        all_reduce_seconds(ideal_cluster(n(), kBandwidth), bytes(), collectives::Algorithm::kRing),
        formula);
  });
}

TEST_P(Formulas, RecursiveDoublingAndRabenseifner) {
  const int power = static_cast<int>(std::bit_floor(static_cast<unsigned>(n())));
  const double folds = power == n() ? 0 : 2;
  const double whole = static_cast<double>(bytes()) / kBandwidth;
  const double doubling = (folds + std::log2(power)) * whole;
  const double halving = (folds + 2.0 * (power - 1) / power) * whole;
  // Who has been folded with runs a few segments behind the others, and meets theirs on its link.
  const double tolerance = power == n() ? kTolerance : 0.04;
  in_child([&] {
    expect_near(all_reduce_seconds(ideal_cluster(n(), kBandwidth), bytes(),
                                   collectives::Algorithm::kRecursiveDoubling),
                doubling, tolerance);
  });
  in_child([&] {
    expect_near(all_reduce_seconds(ideal_cluster(n(), kBandwidth), bytes(),
                                   collectives::Algorithm::kRabenseifner),
                halving, tolerance);
  });
}

/// Trees do not overlap their steps, and how they wait for each other has no closed form: every
/// rank sends up to 2B, and receives as much.
TEST_P(Formulas, TreeKeepsItsBounds) {
  const double whole = static_cast<double>(bytes()) / kBandwidth;
  in_child([&] {
    const double seconds =
        all_reduce_seconds(ideal_cluster(n(), kBandwidth), bytes(), collectives::Algorithm::kTree);
    EXPECT_GE(seconds, 2.0 * (n() - 1) / n() * whole * (1 - kTolerance));
    EXPECT_LE(seconds, 4 * whole * (1 + kTolerance));
  });
}

TEST(HierarchicalFormula, SendsTheMinimumOutOfEachHost) {
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  for (const int hosts : {2, 3, 4}) {
    Cluster cluster = ideal_cluster(hosts, kBandwidth);
    for (Host& host : cluster.hosts) host.workers = 2;
    const double formula = 2.0 * (hosts - 1) / hosts * static_cast<double>(kBytes) / kBandwidth;
    in_child([&] {
      expect_near(all_reduce_seconds(cluster, kBytes, collectives::Algorithm::kHierarchical),
                  formula, hosts == 3 ? 0.025 : kTolerance);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Formulas, ::testing::Values(2, 3, 4, 5, 7, 8, 16));

/// Mean time of the steps behind the first, over all workers.
double step_seconds(const SimulationOptions& options) {
  auto result = simulate(options);
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().to_string());
  if (!result) return 0;
  double sum = 0;
  int steps = 0;
  for (const WorkerResult& worker : result->workers) {
    for (std::size_t k = 1; k < worker.steps.size(); ++k, ++steps) {
      sum += worker.steps[k].end - worker.steps[k].begin;
    }
  }
  return sum / steps;
}

SimulationOptions options_for(Cluster cluster, std::int64_t elements) {
  SimulationOptions options;
  options.cluster = std::move(cluster);
  options.workload = one_parameter(elements);
  options.steps = 4;
  return options;
}

TEST(StepFormulas, AllReduceByRing) {
  SimulationOptions options = options_for(ideal_cluster(4, kBandwidth), 25'000'000);
  options.strategy.kind = strategy::AllReduce{collectives::Algorithm::kRing};
  const double formula = 0.035 + 2 * 0.75 * 1e8 / kBandwidth;
  in_child([&] { expect_near(step_seconds(options), formula); });
}

/// N workers with K shards, hosted (the first K workers) or dedicated, B bytes. What a shard's host
/// receives: the gradients of all other workers, then it sends the parameters to them; hosts that
/// serve and work overlap neither, since nobody answers before all have pushed.
TEST(StepFormulas, ParameterServerWithShards) {
  constexpr double kBytes = 1e8;
  for (const int shards : {1, 2, 4}) {
    SimulationOptions hosted = options_for(ideal_cluster(4, kBandwidth), 25'000'000);
    strategy::ParameterServer server;
    server.shards = shards;
    hosted.strategy.kind = server;
    const double hosted_formula = 0.030 + 2 * 3 * kBytes / shards / kBandwidth;
    in_child([&] { expect_near(step_seconds(hosted), hosted_formula); });

    SimulationOptions dedicated = options_for(ideal_cluster(4, kBandwidth, shards), 25'000'000);
    dedicated.strategy.kind = strategy::ParameterServer{};
    const double dedicated_formula = 0.030 + 2 * 4 * kBytes / shards / kBandwidth;
    in_child([&] { expect_near(step_seconds(dedicated), dedicated_formula); });
  }
}

}  // namespace
}  // namespace gearshift::sim::testing
