// Clusters and workloads that a program makes, without a file.

#include "sim/check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace gearshift::sim {
namespace {

Cluster two_hosts() {
  Cluster cluster;
  cluster.hosts = {{.name = "a", .zone = "inner", .workers = 2, .servers = 1},
                   {.name = "b", .zone = "", .workers = 3, .servers = 2}};
  cluster.zones = {{.name = "outer", .parent = ""}, {.name = "inner", .parent = "outer"}};
  return cluster;
}

TEST(Cluster, NumbersWorkersThenServersHostByHost) {
  const Cluster cluster = two_hosts();
  EXPECT_EQ(cluster.workers(), 5);
  EXPECT_EQ(cluster.servers(), 3);
  std::vector<int> hosts;
  for (int rank = 0; rank < 8; ++rank) hosts.push_back(cluster.host_of(rank));
  EXPECT_EQ(hosts, (std::vector<int>{0, 0, 1, 1, 1, 0, 1, 1}));
}

TEST(Validate, TakesASoundCluster) {
  EXPECT_TRUE(validate(two_hosts()).ok()) << validate(two_hosts()).error().message;
}

std::string problem_after(const std::function<void(Cluster&)>& change) {
  Cluster cluster = two_hosts();
  change(cluster);
  const base::Status status = validate(cluster);
  if (status.ok()) return "none";
  EXPECT_EQ(status.error().code, base::ErrorCode::kInvalidArgument);
  return status.error().message;
}

TEST(Validate, NamesTheKeyThatIsWrong) {
  EXPECT_EQ(problem_after([](Cluster& c) { c.hosts[1].bandwidth = -1; }),
            "hosts[1].bandwidth: a rate must be positive, this is -1");
  EXPECT_EQ(problem_after([](Cluster& c) { c.hosts[0].speed = 0; }),
            "hosts[0].speed: a speed must be positive, this is 0");
  EXPECT_EQ(problem_after([](Cluster& c) { c.hosts[0].workers = -1; }),
            "hosts[0].workers: a number of workers must not be negative, this is -1");
  EXPECT_EQ(problem_after([](Cluster& c) { c.hosts[0].servers = -1; }),
            "hosts[0].servers: a number of servers must not be negative, this is -1");
  EXPECT_EQ(problem_after([](Cluster& c) { c.hosts[0].model.per_message = std::nan(""); }),
            "hosts[0].per_message: a time must be finite, this is nan");
  EXPECT_EQ(problem_after([](Cluster& c) { c.hosts[0].model.reduce_bandwidth = 0; }),
            "hosts[0].reduce_bandwidth: a rate must be positive, this is 0");
  EXPECT_EQ(problem_after([](Cluster& c) { c.zones[1].bandwidth = -1; }),
            "zones[1].bandwidth: a rate must not be negative, this is -1");
  EXPECT_EQ(problem_after([](Cluster& c) { c.zones[0].name.clear(); }),
            "zones[0].name: a name must not be empty");
  EXPECT_EQ(problem_after([](Cluster& c) { c.hosts.clear(); }),
            "hosts: a cluster needs at least one host");
  EXPECT_EQ(problem_after([](Cluster& c) { c.variability = Variability{.spread = -1}; }),
            "variability.spread: a spread must not be negative, this is -1");
}

TEST(Validate, RefusesMoreProcessesThanItCanCount) {
  EXPECT_EQ(problem_after([](Cluster& c) {
              c.hosts[0].workers = 2'000'000'000;
              c.hosts[1].workers = 2'000'000'000;
            }),
            "hosts: 4000000003 processes are more than 1000000, the most that a simulation takes");
}

TEST(Validate, RefusesMoreProcessesThanThereIsMemoryFor) {
  const std::string problem = problem_after([](Cluster& c) { c.hosts[0].workers = 899'994; });
  EXPECT_EQ(problem.rfind("hosts: to simulate 900000 processes takes at least 51840 GB of memory, "
                          "and this machine has ",
                          0),
            0)
      << problem;
}

TEST(FindProblem, FindsItInAWorkload) {
  Workload workload;
  workload.forward_seconds = 1;
  workload.backward_seconds = 2;
  EXPECT_EQ(find_problem(workload)->to_string(),
            "parameters: a workload needs at least one parameter");
  workload.parameters = {{"p", {2, 3}}};
  EXPECT_FALSE(find_problem(workload).has_value());
  workload.batch_size = 0;
  EXPECT_EQ(find_problem(workload)->to_string(),
            "batch_size: a batch size must be positive, this is 0");
}

TEST(Workload, GivesTheParametersToTheStrategy) {
  Workload workload;
  workload.parameters = {{"w", {2, 3}, base::DType::kF16}, {"scale", {}, base::DType::kF64}};
  EXPECT_EQ(workload.parameter_bytes(), 2 * 3 * 2 + 8);
  const auto specs = workload.specs();
  ASSERT_EQ(specs.size(), 2);
  EXPECT_EQ(specs[0].name, "w");
  EXPECT_EQ(specs[0].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(specs[0].dtype, base::DType::kF16);
  EXPECT_EQ(specs[0].param_group, 0);
  EXPECT_EQ(specs[1].elements(), 1);
}

}  // namespace
}  // namespace gearshift::sim
