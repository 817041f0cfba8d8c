#include "gearshift/group/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gearshift::group {
namespace {

using ::testing::ElementsAre;

constexpr LinkSpeed kFast{.latency = 1e-5, .seconds_per_byte = 1e-9};
constexpr LinkSpeed kSlow{.latency = 1e-5, .seconds_per_byte = 1e-7};

/// Four hosts; those with numbers of different parity are far from each other.
LinkSpeeds two_sites() {
  LinkSpeeds speeds;
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) speeds.between.push_back((a + b) % 2 == 0 ? kFast : kSlow);
  }
  return speeds;
}

TEST(Topology, NumbersHostsByTheirLowestRanks) {
  const Topology t({7, 3, 7, 5, 3});
  EXPECT_EQ(t.hosts(), 3);
  EXPECT_EQ(t.host_of(2), 0);
  EXPECT_THAT(t.members(0), ElementsAre(0, 2));
  EXPECT_THAT(t.members(1), ElementsAre(1, 4));
  EXPECT_THAT(t.members(2), ElementsAre(3));
  EXPECT_EQ(t.largest_host(), 2);
  EXPECT_EQ(t.smallest_host(), 1);
  EXPECT_THAT(t.order(), ElementsAre(0, 2, 1, 4, 3));
  for (int r = 0; r < t.size(); ++r) {
    EXPECT_EQ(t.order()[static_cast<std::size_t>(t.position(r))], r);
  }
}

TEST(Topology, OneHostKeepsTheOrderOfRanks) {
  const Topology t = Topology::one_host(3);
  EXPECT_EQ(t.hosts(), 1);
  EXPECT_THAT(t.order(), ElementsAre(0, 1, 2));
  EXPECT_EQ(t.slowest_remote(), t.speeds().local);
}

TEST(Topology, TheRingFollowsTheSpeeds) {
  const Topology t({0, 1, 2, 3}, two_sites());
  EXPECT_THAT(t.host_ring(), ::testing::AnyOf(ElementsAre(0, 2, 1, 3), ElementsAre(0, 2, 3, 1),
                                              ElementsAre(0, 1, 3, 2), ElementsAre(0, 3, 1, 2)));
  EXPECT_EQ(t.slowest_remote(), kSlow);
  EXPECT_DOUBLE_EQ(t.bandwidth(0), 1e9);
  EXPECT_DOUBLE_EQ(t.greatest_bandwidth(), 1e9);
}

TEST(Topology, TheBestLinkOfASlowHostIsNotTheGreatest) {
  LinkSpeeds speeds;
  speeds.between = {kFast, kFast, kSlow, kFast, kFast, kSlow, kSlow, kSlow, kSlow};
  const Topology t({0, 1, 2}, speeds);
  EXPECT_DOUBLE_EQ(t.bandwidth(2), 1 / kSlow.seconds_per_byte);
  EXPECT_DOUBLE_EQ(t.greatest_bandwidth(), 1 / kFast.seconds_per_byte);
}

TEST(Topology, OfTwoDirectionsTheSlowerCounts) {
  LinkSpeeds speeds;
  speeds.between = {kFast, kFast, kSlow, kFast};
  const Topology t({0, 1}, speeds);
  EXPECT_EQ(t.between(0, 1), kSlow);
  EXPECT_EQ(t.between(1, 0), kSlow);
  EXPECT_EQ(t.slowest_in_ring(), kSlow);
}

TEST(Topology, SubsetsKeepWhatIsKnown) {
  const Topology t({0, 1, 2, 3, 0}, two_sites());
  const Topology part = t.subset({1, 3, 4});
  EXPECT_EQ(part.hosts(), 3);
  EXPECT_EQ(part.between(0, 1), kFast) << "hosts 1 and 3";
  EXPECT_EQ(part.between(1, 2), kSlow) << "hosts 3 and 0";
  const Topology alone = t.subset({0, 4});
  EXPECT_EQ(alone.hosts(), 1);
  EXPECT_THAT(alone.order(), ElementsAre(0, 1));
}

}  // namespace
}  // namespace gearshift::group
