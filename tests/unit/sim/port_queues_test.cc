#include "sim/simgrid/port_queues.h"

#include <gtest/gtest.h>

#include "clusters.h"
#include "gearshift/collectives/collectives.h"
#include "in_child.h"
#include "sim/job.h"

namespace gearshift::sim::testing {
namespace {

Cluster with_queues(int hosts, double queue) {
  Cluster cluster = ideal_cluster(hosts);
  for (Host& host : cluster.hosts) host.queue = queue;
  return cluster;
}

TEST(PortQueues, FillByWhatComesTooMuchUpToTheBuffer) {
  PortQueues queues(with_queues(5, 0.07));
  for (const int from : {1, 2, 3}) queues.begin(from, 0, 1.0);
  EXPECT_DOUBLE_EQ(queues.wait(4, 0, 1.0), 0);
  EXPECT_NEAR(queues.wait(4, 0, 1.01), 0.02, 1e-12);  // three come, one goes
  EXPECT_NEAR(queues.wait(4, 0, 2.0), 0.07, 1e-12);
  for (const int from : {2, 3}) queues.end(from, 0, 2.0);
  EXPECT_NEAR(queues.wait(4, 0, 3.0), 0.07, 1e-12) << "as much comes as goes";
  queues.end(1, 0, 3.0);
  EXPECT_NEAR(queues.levels(3.03)[0], 0.04, 1e-12);
  EXPECT_EQ(queues.levels(4), std::vector<double>(5, 0));
}

TEST(PortQueues, StayEmptyWhereEachSendsToAllInBalance) {
  PortQueues queues(with_queues(4, 0.07));
  for (int from = 0; from < 4; ++from) {
    for (int to = 0; to < 4; ++to) {
      if (from != to) queues.begin(from, to, 0);
    }
  }
  EXPECT_NEAR(queues.wait(1, 0, 10), 0, 1e-9);
}

TEST(PortQueues, NobodyWaitsBehindHisOwn) {
  Cluster cluster = with_queues(3, 0.07);
  cluster.hosts[1].bandwidth *= 4;
  PortQueues queues(cluster);
  queues.begin(1, 0, 0);
  EXPECT_EQ(queues.wait(1, 0, 1), 0);
  EXPECT_NEAR(queues.wait(2, 0, 1), 0.07, 1e-12) << "a fast host fills the port of a slow one";
}

TEST(PortQueues, WhatStaysOnAHostDoesNotWait) {
  PortQueues queues(with_queues(3, 0.07));
  for (const int from : {1, 2}) queues.begin(from, 0, 0);
  EXPECT_GT(queues.wait(1, 0, 1), 0);
  EXPECT_EQ(queues.wait(0, 0, 1), 0);
}

TEST(PortQueues, PortsWithoutOneKeepNobodyWaiting) {
  PortQueues queues(with_queues(3, 0));
  for (const int from : {1, 2}) queues.begin(from, 0, 0);
  EXPECT_EQ(queues.wait(2, 0, 1), 0);
  EXPECT_TRUE(queues.levels(1).empty());
  queues.end(1, 0, 1);
}

/// When a small message of rank 1 is there, while two others send a large one.
double small_among_large(double queue, Sharing sharing) {
  double arrival = 0;
  const Cluster cluster = with_queues(4, queue);
  auto job =
      Job::create(cluster, std::chrono::hours(1), 256 * 1024, std::chrono::seconds(30), sharing);
  EXPECT_TRUE(job.ok());
  const base::Status status =
      (*job)->run([&](int rank, strategy::Environment environment) -> base::Status {
        base::Scheduler& clock = (*job)->scheduler();
        std::vector<std::byte> large(50'000'000);
        std::vector<std::byte> small(8);
        group::Group& world = *environment.world;
        if (rank > 1) return collectives::send(world, large, base::Rank(0));
        if (rank == 1) {
          clock.sleep_until(clock.now() + std::chrono::milliseconds(50));
          return collectives::send(world, small, base::Rank(0));
        }
        GEARSHIFT_RETURN_IF_ERROR(collectives::recv(world, small, base::Rank(1)));
        arrival = base::to_seconds(clock.now() - base::TimePoint{});
        GEARSHIFT_RETURN_IF_ERROR(collectives::recv(world, large, base::Rank(2)));
        return collectives::recv(world, large, base::Rank(3));
      });
  EXPECT_TRUE(status.ok()) << status.error().to_string();
  return arrival;
}

class QueueOfAPort : public ::testing::TestWithParam<Sharing> {};

TEST_P(QueueOfAPort, DelaysSmallMessagesOfOthers) {
  in_child([] { EXPECT_NEAR(small_among_large(0, GetParam()), 0.050, 1e-4); });
  // Two come and one goes, for 50 ms.
  in_child([] { EXPECT_NEAR(small_among_large(1, GetParam()), 0.100, 1e-3); });
  in_child([] { EXPECT_NEAR(small_among_large(0.02, GetParam()), 0.070, 1e-3); });
}

INSTANTIATE_TEST_SUITE_P(Rules, QueueOfAPort,
                         ::testing::Values(Sharing::kMaxMin, Sharing::kPerLink), [](const auto& i) {
                           return i.param == Sharing::kMaxMin ? "max_min" : "per_link";
                         });

}  // namespace
}  // namespace gearshift::sim::testing
