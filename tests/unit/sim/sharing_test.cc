// Links that share themselves each for itself, against max-min fair shares of the whole network.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "clusters.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/sim/simulate.h"
#include "in_child.h"
#include "sim/job.h"

namespace gearshift::sim::testing {
namespace {

using collectives::Algorithm;

/// What `body` returns, which runs in a child process.
double in_child_of(const std::function<double()>& body) {
  const std::string file = ::testing::TempDir() + "gearshift-sharing." + std::to_string(::getpid());
  in_child([&] {
    std::FILE* out = std::fopen(file.c_str(), "w");
    std::fprintf(out, "%a", body());
    std::fclose(out);
  });
  double value = 0;
  std::FILE* in = std::fopen(file.c_str(), "r");
  EXPECT_EQ(std::fscanf(in, "%la", &value), 1);
  std::fclose(in);
  return value;
}

/// Workers with 32 MB in eight parameters that become ready one after the other.
SimulationOptions sharing_options(int workers, double bandwidth) {
  SimulationOptions options;
  options.cluster = ideal_cluster(workers, bandwidth);
  for (Host& host : options.cluster.hosts) {
    host.latency = 25e-6;
    host.model = HostModel{};
  }
  options.workload = one_parameter(1 << 20);
  options.workload.parameters.clear();
  for (int p = 0; p < 8; ++p) {
    options.workload.parameters.push_back(
        {"p" + std::to_string(p), {1 << 20}, base::DType::kF32, 0.0025 * (8 - p)});
  }
  options.steps = 3;
  return options;
}

/// When a worker has done all of its steps, on average.
double mean_seconds(SimulationOptions options, Sharing sharing) {
  options.sharing = sharing;
  return in_child_of([&] {
    const auto result = simulate(options);
    EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().to_string());
    double sum = 0;
    for (const WorkerResult& worker : result->workers) sum += worker.steps.back().end;
    return sum / options.cluster.workers();
  });
}

/// The two agree to within `tolerance`, relative.
void expect_agreement(const SimulationOptions& options, double tolerance) {
  const double fair = mean_seconds(options, Sharing::kMaxMin);
  const double each = mean_seconds(options, Sharing::kPerLink);
  EXPECT_NEAR(each, fair, tolerance * fair) << options.cluster.workers() << " workers";
}

class SharingOf : public ::testing::TestWithParam<int> {};

TEST_P(SharingOf, AllReduces) {
  for (const double bandwidth : {1.25e9, 1.25e8}) {
    SimulationOptions options = sharing_options(GetParam(), bandwidth);
    options.strategy.kind = strategy::AllReduce{Algorithm::kRing};
    expect_agreement(options, 1e-4);
    options.strategy.kind = strategy::AllReduce{Algorithm::kRecursiveDoubling};
    expect_agreement(options, 0.02);
    options.strategy.kind = strategy::AllReduce{Algorithm::kRabenseifner};
    expect_agreement(options, 0.04);
    options.strategy.kind = strategy::AllReduce{Algorithm::kTree};
    expect_agreement(options, 0.04);
  }
}

TEST_P(SharingOf, ParameterServers) {
  for (const double bandwidth : {1.25e9, 1.25e8}) {
    SimulationOptions options = sharing_options(GetParam(), bandwidth);
    for (const int shards : {1, 4}) {
      strategy::ParameterServer server;
      server.shards = shards;
      options.strategy.kind = server;
      options.steps = 3;
      expect_agreement(options, 0.01);
      server.consistency = ps::Consistency::asp();
      options.steps = 12;  // who meets whom changes from step to step
      options.strategy.kind = server;
      // Asynchronous workers at a few shards that never rest: who is served first decides who meets
      // whom, and links that wait for each other under one rule don't under the other.
      expect_agreement(options, shards == 1 ? 0.01 : 0.15);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, SharingOf, ::testing::Values(4, 8, 12));

/// When each of the ranks has got what the ones before it send: {from, to, bytes} one by one.
struct Transfer {
  int from, to;
  std::size_t bytes;
};
double seconds_for(const Cluster& cluster, Sharing sharing,
                   const std::vector<Transfer>& transfers) {
  return in_child_of([&] {
    auto job =
        Job::create(cluster, std::chrono::hours(1), kStack, std::chrono::seconds(30), sharing);
    EXPECT_TRUE(job.ok());
    const auto run = [&](int rank, strategy::Environment environment) -> base::Status {
      std::vector<transport::Request> requests;
      std::uint16_t number = 0;
      for (const Transfer& t : transfers) {
        const transport::Tag tag{0, 1, number++};
        const base::Bytes data(static_cast<std::byte*>(nullptr), t.bytes);
        group::Group& world = *environment.world;
        if (t.from == rank) requests.push_back(world.link(base::Rank(t.to)).send(tag, data));
        if (t.to == rank) requests.push_back(world.link(base::Rank(t.from)).recv(tag, data));
      }
      for (const auto& request : requests) {
        GEARSHIFT_RETURN_IF_ERROR(request.wait(environment.world->deadline()));
      }
      return {};
    };
    const base::Status status = (*job)->run(run);
    EXPECT_TRUE(status.ok()) << status.error().to_string();
    return base::to_seconds((*job)->scheduler().now().since_origin);
  });
}

TEST(SharingOfLinks, IsTheSameWhereOneLinkIsTheBottleneck) {
  Cluster cluster = ideal_cluster(4, 1e6);
  cluster.hosts[3].bandwidth = 5e5;
  cluster.zones.push_back({.name = "rack", .parent = "", .bandwidth = 8e5, .latency = 0.001});
  cluster.hosts[0].zone = cluster.hosts[1].zone = "rack";
  const std::vector<std::vector<Transfer>> cases = {
      {{0, 1, 100'000}},                                        // inside the rack
      {{0, 2, 100'000}},                                        // through the uplink
      {{2, 3, 100'000}},                                        // into the slow host
      {{0, 2, 100'000}, {1, 2, 100'000}},                       // share the uplink
      {{0, 2, 100'000}, {1, 3, 10'000}},                        // a small one is through sooner
      {{0, 1, 50'000}, {0, 1, 50'000}},                         // one after the other
      {{2, 0, 100'000}, {2, 1, 100'000}, {2, 3, 100'000}},      // share the interface
      {{0, 2, 1}, {2, 0, 1}, {0, 2, 100'000}, {2, 0, 100'000}}  // both directions
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const double fair = seconds_for(cluster, Sharing::kMaxMin, cases[i]);
    EXPECT_NEAR(seconds_for(cluster, Sharing::kPerLink, cases[i]), fair, 1e-5) << "case " << i;
  }
}

TEST(SharingOfLinks, SurvivesAnErrorWithMessagesUnderWay) {
  for (const Sharing sharing : {Sharing::kMaxMin, Sharing::kPerLink}) {
    in_child([&] {
      const Cluster cluster = ideal_cluster(4, 1e6);
      auto job =
          Job::create(cluster, std::chrono::hours(1), kStack, std::chrono::seconds(30), sharing);
      const base::Status status = (*job)->run([&](int rank, strategy::Environment environment) {
        if (rank == 2) {
          (*job)->scheduler().sleep_until(
              (*job)->scheduler().after(std::chrono::milliseconds(700)));
          return base::Status(base::Error(base::ErrorCode::kInvalidArgument, "enough"));
        }
        const base::Bytes data(static_cast<std::byte*>(nullptr), 4 << 20);
        return collectives::all_reduce(*environment.world, data, base::DType::kF32,
                                       base::ReduceOp::kSum, {.algorithm = Algorithm::kTree});
      });
      ASSERT_FALSE(status.ok());
      EXPECT_NE(status.error().message.find("enough"), std::string::npos);
    });
  }
}

}  // namespace
}  // namespace gearshift::sim::testing
