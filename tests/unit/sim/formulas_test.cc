// On ideal links, which cost nothing but the time of the bytes, algorithms take what their formulas
// say.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <string>

#include "clusters.h"
#include "collectives/all_reduce/tree.h"
#include "collectives/in_flight.h"
#include "collectives/segments.h"
#include "collectives/two_trees.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/collectives/cost.h"
#include "gearshift/sim/simulate.h"
#include "in_child.h"
#include "sim/job.h"

namespace gearshift::sim::testing {
namespace {

constexpr double kBandwidth = 1e9;
constexpr double kFormulaTolerance = 1e-3;

/// Seconds that an all-reduce of phantoms takes on ranks of a cluster; what the cost model says, if
/// it is asked.
double all_reduce_seconds(const Cluster& cluster, std::size_t bytes,
                          collectives::Algorithm algorithm, Sharing sharing = Sharing::kAuto,
                          double* predicted = nullptr) {
  auto job = Job::create(cluster, std::chrono::hours(1), kStack, std::chrono::seconds(30), sharing);
  EXPECT_TRUE(job.ok());
  if (!job) return 0;
  base::TimePoint end;
  const base::Status status = (*job)->run([&](int, strategy::Environment environment) {
    const base::Bytes data(static_cast<std::byte*>(nullptr), bytes);
    const base::Status done =
        collectives::all_reduce(*environment.world, data, base::DType::kF32, base::ReduceOp::kSum,
                                {.algorithm = algorithm});
    end = std::max(end, (*job)->scheduler().now());
    if (predicted != nullptr) {
      *predicted = collectives::predict(algorithm, bytes,
                                        collectives::Network(*environment.world->topology()));
    }
    return done;
  });
  EXPECT_TRUE(status.ok()) << status.error().to_string();
  return base::to_seconds(end.since_origin);
}

void expect_near(double seconds, double formula, double tolerance = kFormulaTolerance) {
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
  for (const Sharing sharing : {Sharing::kAuto, Sharing::kNone}) {
    in_child([&] {
      expect_near(all_reduce_seconds(ideal_cluster(n(), kBandwidth), bytes(),
                                     collectives::Algorithm::kRing, sharing),
                  formula);
    });
  }
}

TEST_P(Formulas, RecursiveDoublingAndRabenseifner) {
  const int power = static_cast<int>(std::bit_floor(static_cast<unsigned>(n())));
  const double folds = power == n() ? 0 : 2;
  const double whole = static_cast<double>(bytes()) / kBandwidth;
  const double doubling = (folds + std::log2(power)) * whole;
  const double halving = (folds + 2.0 * (power - 1) / power) * whole;
  const auto seconds = [&](collectives::Algorithm algorithm, Sharing sharing) {
    return all_reduce_seconds(ideal_cluster(n(), kBandwidth), bytes(), algorithm, sharing);
  };
  // Where ports are shared, who has been folded with runs a few segments behind the others, and
  // meets theirs on its link.
  const double shared = power == n() ? kFormulaTolerance : 0.035;
  in_child([&] {
    expect_near(seconds(collectives::Algorithm::kRecursiveDoubling, Sharing::kAuto), doubling,
                shared);
  });
  in_child([&] {
    expect_near(seconds(collectives::Algorithm::kRabenseifner, Sharing::kAuto), halving, shared);
  });
  in_child([&] {
    expect_near(seconds(collectives::Algorithm::kRabenseifner, Sharing::kNone), halving);
  });
}

/// When the last position has done its last step of a timetable, in packets' times: a step begins
/// when the one before is done, and is done when its own packet has left and the other has come,
/// which may have been before it began. An idle one takes no time.
std::size_t end_of(const collectives::TreeTimetable& timetable) {
  const auto size = static_cast<std::size_t>(timetable.size());
  std::vector<std::size_t> ends(size), next(size);
  for (std::size_t number = 0; number < timetable.steps(); ++number) {
    const std::vector<std::size_t> begins = ends;
    for (std::size_t p = 0; p < size; ++p) {
      const auto steps = timetable.of(static_cast<int>(p));
      if (next[p] == steps.size() || steps[next[p]].number != number) continue;
      const collectives::TreeStep& step = steps[next[p]++];
      if (step.to >= 0) ends[p] = begins[p] + 1;
      if (step.from >= 0) {
        ends[p] = std::max(ends[p], begins[static_cast<std::size_t>(step.from)] + 1);
      }
    }
  }
  return *std::max_element(ends.begin(), ends.end());
}

/// Without contention, an all-reduce takes what its timetable does, times a packet's time; that is
/// all of its steps, but for four ranks. Where messages share the ports of their hosts it takes
/// longer beyond two ranks: those that idle in a step are early in the next, and their message
/// meets the one of the step before; for how long has no closed form.
TEST_P(Formulas, Tree) {
  const std::size_t packets = collectives::tree_packets(bytes());
  const collectives::TreeTimetable timetable(n(), packets);
  const double packet = static_cast<double>(bytes()) / static_cast<double>(packets) / kBandwidth;
  const std::size_t end = end_of(timetable);
  EXPECT_EQ(end, timetable.steps() - (n() == 4 ? 16 : 0));
  const double formula = static_cast<double>(end) * packet;
  const auto seconds = [&](Sharing sharing) {
    return all_reduce_seconds(ideal_cluster(n(), kBandwidth), bytes(),
                              collectives::Algorithm::kTree, sharing);
  };
  in_child([&] { expect_near(seconds(Sharing::kNone), formula); });
  in_child([&] {
    const double shared = seconds(Sharing::kAuto);
    if (n() == 2) expect_near(shared, formula);
    EXPECT_GE(shared, formula * (1 - kFormulaTolerance));
    EXPECT_LE(shared, 1.45 * static_cast<double>(timetable.steps()) * packet);
  });
}

/// The two workers of a host share its port, or have a wire to each other host for themselves.
TEST(HierarchicalFormula, SendsTheMinimumOutOfEachHost) {
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  for (const int hosts : {2, 3, 4, 5}) {
    Cluster cluster = ideal_cluster(hosts, kBandwidth);
    for (Host& host : cluster.hosts) host.workers = 2;
    const double formula = 2.0 * (hosts - 1) / hosts * static_cast<double>(kBytes) / kBandwidth;
    for (const Sharing sharing : {Sharing::kAuto, Sharing::kNone}) {
      in_child([&] {
        expect_near(
            all_reduce_seconds(cluster, kBytes, collectives::Algorithm::kHierarchical, sharing),
            sharing == Sharing::kNone ? formula / 2 : formula);
      });
    }
  }
}

/// Sites of three hosts, whose uplink has a tenth of a host's port: all of a slice within the site,
/// there and back, and the minimum between them.
TEST(HierarchicalFormula, SendsTheMinimumBetweenSites) {
  constexpr std::size_t kBytes = std::size_t{96} << 20;
  for (const int sites : {2, 3}) {
    Cluster cluster = ideal_cluster(3 * sites, kBandwidth);
    for (int site = 0; site < sites; ++site) {
      cluster.zones.push_back({"site-" + std::to_string(site), "", kBandwidth / 10});
    }
    for (int host = 0; host < 3 * sites; ++host) {
      cluster.hosts[static_cast<std::size_t>(host)].zone = "site-" + std::to_string(host % sites);
    }
    const double bytes = static_cast<double>(kBytes);
    const double within = 2.0 * 2 / 3 * bytes / kBandwidth;
    const double between = 2.0 * (sites - 1) / sites * bytes / (kBandwidth / 10);
    for (const auto algorithm :
         {collectives::Algorithm::kHierarchical, collectives::Algorithm::kAuto}) {
      in_child([&] {
        expect_near(all_reduce_seconds(cluster, kBytes, algorithm, Sharing::kAuto),
                    within + between);
      });
    }
  }
}

/// Sites whose links are long, and no thinner than those of hosts: a ring crosses few of them, and
/// as much is under way as fills them.
TEST(CostModel, KnowsHowOftenARingCrossesBetweenSites) {
  constexpr auto kRing = collectives::Algorithm::kRing;
  for (const int sites : {2, 3}) {
    Cluster cluster;
    cluster.name = "far";
    for (int site = 0; site < sites; ++site) {
      cluster.zones.push_back({"site-" + std::to_string(site), "", 0, 10e-3});
    }
    for (int i = 0; i < 3 * sites; ++i) {
      cluster.hosts.push_back({.name = "node-" + std::to_string(i),
                               .zone = "site-" + std::to_string(i % sites),
                               .workers = 2,
                               .bandwidth = kBandwidth});
    }
    for (const std::size_t bytes :
         {std::size_t{64} << 10, std::size_t{16} << 20, std::size_t{512} << 20}) {
      in_child([&] {
        double predicted = 0;
        const double seconds =
            all_reduce_seconds(cluster, bytes, kRing, Sharing::kAuto, &predicted);
        EXPECT_NEAR(predicted, seconds, 0.1 * seconds) << bytes << " bytes, " << sites << " sites";
      });
    }
  }
}

/// What a link carries within its latency is under way, and as little more as on short ones.
TEST(LongLinks, HaveMoreUnderWay) {
  constexpr double kPerByte = 1 / 1.25e9;
  EXPECT_EQ(collectives::in_flight({50e-6, kPerByte}), collectives::kWindow);
  EXPECT_EQ(collectives::in_flight({10e-3, 10 * kPerByte}), collectives::kWindow + 4);
  EXPECT_EQ(collectives::in_flight({10e-3, kPerByte}), collectives::kWindow + 47);
  EXPECT_EQ(collectives::in_flight({1.0, kPerByte}), collectives::kMostInFlight);
  EXPECT_EQ(collectives::in_flight({0, 0}), collectives::kWindow);
}

/// A chain of three hosts that are far from each other passes on what comes, without a rest.
TEST(LongLinks, AreFullInABroadcast) {
  constexpr std::size_t kBytes = std::size_t{256} << 20;
  Cluster cluster = ideal_cluster(3, kBandwidth);
  for (Host& host : cluster.hosts) host.latency = 5e-3;
  in_child([&] {
    auto job = Job::create(cluster, std::chrono::hours(1), kStack, std::chrono::seconds(30),
                           Sharing::kAuto);
    ASSERT_TRUE(job.ok());
    base::TimePoint end;
    const base::Status status = (*job)->run([&](int, strategy::Environment environment) {
      const base::Bytes data(static_cast<std::byte*>(nullptr), kBytes);
      const base::Status done = collectives::broadcast(*environment.world, data, base::Rank(0), {});
      end = std::max(end, (*job)->scheduler().now());
      return done;
    });
    EXPECT_TRUE(status.ok()) << status.error().to_string();
    const double whole = static_cast<double>(kBytes) / kBandwidth;
    EXPECT_NEAR(base::to_seconds(end.since_origin), whole, 0.2 * whole);
  });
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

SimulationOptions exact_options(Cluster cluster, std::int64_t elements) {
  SimulationOptions options;
  options.cluster = std::move(cluster);
  options.workload = one_parameter(elements);
  options.steps = 4;
  return options;
}

TEST(StepFormulas, AllReduceByRing) {
  SimulationOptions options = exact_options(ideal_cluster(4, kBandwidth), 25'000'000);
  options.strategy.kind = strategy::AllReduce{collectives::Algorithm::kRing};
  const double formula = 0.035 + 2 * 0.75 * 1e8 / kBandwidth;
  in_child([&] { expect_near(step_seconds(options), formula); });
}

constexpr double kBytes = 1e8;
/// The last slice is answered when nothing is left to push.
constexpr double kSlice = 1 << 20, kDedicatedSlice = 512 << 10;

double server_step_seconds(int servers, int shards, Sharing sharing = Sharing::kAuto) {
  SimulationOptions options = exact_options(ideal_cluster(4, kBandwidth, servers), 25'000'000);
  strategy::ParameterServer server;
  server.shards = shards;
  options.strategy.kind = server;
  options.sharing = sharing;
  return step_seconds(options);
}

/// N workers and K dedicated servers: each receives N·B/K of gradients, and answers slice by slice
/// meanwhile.
TEST(StepFormulas, ParameterServerWithDedicatedServers) {
  for (const int servers : {1, 2, 4}) {
    in_child([&] {
      expect_near(server_step_seconds(servers, 0),
                  0.030 + (4 * kBytes / servers + 4 * kDedicatedSlice) / kBandwidth);
    });
  }
}

/// A shard in one worker: the others push B each to it, and get B. A shard in each: every worker
/// pushes (N-1)/N·B, and answers with as much.
TEST(StepFormulas, ParameterServerWithShardsInWorkers) {
  in_child([] {
    expect_near(server_step_seconds(0, 1), 0.030 + (3 * kBytes + 3 * kSlice) / kBandwidth);
  });
  in_child([] { expect_near(server_step_seconds(0, 4), 0.030 + 2 * 0.75 * kBytes / kBandwidth); });
  // With two, whose workers push to each other, too, 2B leave each; in which order has no formula.
  in_child([] {
    const double seconds = server_step_seconds(0, 2);
    EXPECT_GE(seconds, 0.030 + 2 * kBytes / kBandwidth);
    EXPECT_LE(seconds, 0.030 + 3 * kBytes / kBandwidth);
  });
}

/// Without contention, each worker pushes B/K to each of K shards, and gets as much at the same
/// time. Two workers with a shard each push and answer on the same way.
TEST(StepFormulas, ParameterServerWithoutContention) {
  for (const int shards : {1, 2, 4}) {
    const double share = kBytes / shards;
    in_child([&] {
      expect_near(server_step_seconds(shards, 0, Sharing::kNone),
                  0.030 + (share + kDedicatedSlice) / kBandwidth);
    });
    in_child([&] {
      expect_near(server_step_seconds(0, shards, Sharing::kNone),
                  0.030 + (shards == 1 ? share + kSlice : 2 * share) / kBandwidth);
    });
  }
}

}  // namespace
}  // namespace gearshift::sim::testing
