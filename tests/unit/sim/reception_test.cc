#include "sim/reception.h"

#include <gtest/gtest.h>

#include <string>

#include "clusters.h"
#include "gearshift/transport/connection.h"
#include "in_child.h"
#include "sim/job.h"

namespace gearshift::sim::testing {
namespace {

using std::chrono::microseconds;

base::TimePoint at(int us) { return {microseconds(us)}; }

TEST(Reception, TakesInOneAfterTheOther) {
  Reception reception;
  EXPECT_EQ(reception.take_in(at(10), microseconds(5), at(0)), at(15));
  EXPECT_EQ(reception.take_in(at(10), microseconds(5), at(0)), at(20));
  EXPECT_EQ(reception.take_in(at(12), microseconds(5), at(0)), at(25));
  EXPECT_EQ(reception.take_in(at(40), microseconds(5), at(30)), at(45));
}

TEST(Reception, DoesNotWaitForWhatIsFarAway) {
  Reception reception;
  EXPECT_EQ(reception.take_in(at(1000), microseconds(5), at(0)), at(1005));
  EXPECT_EQ(reception.take_in(at(1100), microseconds(5), at(0)), at(1105));
  EXPECT_EQ(reception.take_in(at(20), microseconds(5), at(10)), at(25));
  EXPECT_EQ(reception.take_in(at(22), microseconds(5), at(12)), at(30));
  // No room between 1000 and 1005, and just enough until 1100.
  EXPECT_EQ(reception.take_in(at(998), microseconds(95), at(13)), at(1100));
  EXPECT_EQ(reception.take_in(at(999), microseconds(5), at(13)), at(1110));
  EXPECT_EQ(reception.take_in(at(990), microseconds(10), at(14)), at(1000));
}

TEST(Reception, OfWhatTakesNoTimeNothingWaits) {
  Reception reception;
  EXPECT_EQ(reception.take_in(at(1000), microseconds(0), at(0)), at(1000));
  EXPECT_EQ(reception.take_in(at(20), microseconds(0), at(0)), at(20));
}

/// Rank 2 gets a message from another site, 10 ms away, and one from its own that leaves later.
TEST(Reception, OfAMessageFromNearIsNotHeldUpByOneFromFar) {
  Cluster cluster;
  cluster.name = "far";
  cluster.zones = {{"here", "", 0, 5e-3}, {"there", "", 0, 5e-3}};
  for (const char* zone : {"there", "here", "here"}) {
    cluster.hosts.push_back({.name = "node-" + std::to_string(cluster.hosts.size()), .zone = zone});
  }
  for (const Sharing sharing : {Sharing::kPerLink, Sharing::kMaxMin}) {
    in_child([&] {
      auto job =
          Job::create(cluster, std::chrono::hours(1), kStack, std::chrono::seconds(30), sharing);
      ASSERT_TRUE(job.ok());
      const base::Status done = (*job)->run([&](int rank, strategy::Environment environment) {
        const transport::Tag tag{2, 0, 0};
        group::Group& world = *environment.world;
        if (rank == 2) {
          const auto near = world.link(base::Rank(1)).recv(tag, {}).wait(world.deadline());
          EXPECT_LT(base::to_seconds(world.scheduler().now().since_origin), 2e-3);
          const auto far = world.link(base::Rank(0)).recv(tag, {}).wait(world.deadline());
          EXPECT_GT(base::to_seconds(world.scheduler().now().since_origin), 10e-3);
          return near ? far : near;
        }
        if (rank == 1) world.scheduler().sleep_for(std::chrono::milliseconds(1));
        return world.link(base::Rank(2)).send(tag, {}).wait(world.deadline());
      });
      EXPECT_TRUE(done.ok()) << done.error().to_string();
    });
  }
}

}  // namespace
}  // namespace gearshift::sim::testing
