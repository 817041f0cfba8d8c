#include "group/sites.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "gearshift/group/topology.h"

namespace gearshift::group {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// Costs between hosts at places on a line.
std::vector<double> costs_between(const std::vector<double>& places) {
  std::vector<double> costs;
  for (const double a : places) {
    for (const double b : places) costs.push_back(std::abs(a - b));
  }
  return costs;
}

std::vector<int> sites_at(const std::vector<double>& places) {
  return find_sites(costs_between(places), static_cast<int>(places.size()));
}

TEST(Sites, AreHostsThatAreNearEachOther) {
  EXPECT_THAT(sites_at({0, 1, 10, 11}), ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(sites_at({0, 10, 1, 11, 20}), ElementsAre(0, 1, 0, 1, 2));
  EXPECT_THAT(sites_at({0, 1, 2, 3, 40}), ElementsAre(0, 0, 0, 0, 1));
  EXPECT_THAT(sites_at({30, 0, 1}), ElementsAre(0, 1, 1));
}

TEST(Sites, AreCutWhereDistancesGrowMost) {
  // By four, and by ten from there.
  EXPECT_THAT(sites_at({0, 1, 5, 6, 46, 47}), ElementsAre(0, 0, 0, 0, 1, 1));
  // By ten, and by four from there.
  EXPECT_THAT(sites_at({0, 1, 11, 12, 52, 53}), ElementsAre(0, 0, 1, 1, 2, 2));
}

TEST(Sites, NeedADistanceThatIsNoNoise) {
  EXPECT_THAT(sites_at({0, 1, 3, 4}), IsEmpty());
  EXPECT_THAT(sites_at({0, 1, 2, 3, 4, 5}), IsEmpty());
  EXPECT_THAT(sites_at({0, 1}), IsEmpty());
  EXPECT_THAT(sites_at({0}), IsEmpty());
  EXPECT_THAT(sites_at({}), IsEmpty());
  std::mt19937 random(7);
  std::uniform_real_distribution<double> noise(1, 2.9);
  for (int run = 0; run < 100; ++run) {
    std::vector<double> costs(64);
    for (std::size_t a = 0; a < 8; ++a) {
      for (std::size_t b = 0; b < a; ++b) costs[a * 8 + b] = costs[b * 8 + a] = noise(random);
    }
    EXPECT_THAT(find_sites(costs, 8), IsEmpty());
  }
}

/// One host at some distance from the end of a chain is not far from all of it.
TEST(Sites, AreNearOnAverage) { EXPECT_THAT(sites_at({0, 1, 2, 3, 4, 5, 6, 9.5}), IsEmpty()); }

/// Measured between two sites of three hosts, 200 and 50 Mbit/s, while other pairs were, too: MB/s.
TEST(Sites, AreFoundThoughLinksMetWhenTheyWereMeasured) {
  const std::vector<double> rates = {
      0,    25.1, 24.6, 6.2,  3.9,  5.2,   //
      25.1, 0,    25.0, 15.8, 2.6,  6.2,   //
      24.6, 25.0, 0,    5.0,  2.2,  5.4,   //
      6.2,  15.8, 5.0,  0,    25.4, 24.5,  //
      3.9,  2.6,  2.2,  25.4, 0,    24.9,  //
      5.2,  6.2,  5.4,  24.5, 24.9, 0,
  };
  LinkSpeeds speeds;
  for (const double rate : rates) speeds.between.push_back({3e-5, 1e-6 / std::max(rate, 0.1)});
  const Topology t({0, 1, 2, 3, 4, 5}, speeds);
  ASSERT_NE(t.sites(), nullptr);
  EXPECT_THAT(t.sites()->members(0), ElementsAre(0, 1, 2));
  EXPECT_THAT(t.sites()->members(1), ElementsAre(3, 4, 5));
  EXPECT_DOUBLE_EQ(t.sites()->slowest_remote().seconds_per_byte, 1e-6 / 5.2) << "the median";
}

TEST(Sites, OfATopologyKnowTheirLinks) {
  constexpr LinkSpeed kNear{.latency = 1e-5, .seconds_per_byte = 1e-9};
  constexpr LinkSpeed kNearly{.latency = 1e-5, .seconds_per_byte = 1.2e-9};
  constexpr LinkSpeed kFar{.latency = 1e-2, .seconds_per_byte = 1e-8};
  constexpr LinkSpeed kMet{.latency = 1e-2, .seconds_per_byte = 4e-8};
  LinkSpeeds speeds{.local = kNear, .reduce_seconds_per_byte = 1e-10};
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) {
      const bool within = a / 2 == b / 2;
      speeds.between.push_back(within                               ? (a < 2 ? kNear : kNearly)
                               : std::abs(a - b) == 2 && a * b == 0 ? kMet
                                                                    : kFar);
    }
  }
  // Two ranks on each host.
  const Topology t({0, 0, 1, 1, 2, 2, 3, 3}, speeds);
  ASSERT_NE(t.sites(), nullptr);
  const Topology& sites = *t.sites();
  EXPECT_EQ(sites.size(), 4) << "hosts in the place of ranks";
  EXPECT_EQ(sites.hosts(), 2);
  EXPECT_THAT(sites.members(1), ElementsAre(2, 3));
  EXPECT_EQ(sites.speeds().local, kNearly) << "the slower of two";
  EXPECT_EQ(sites.slowest_remote(), kFar) << "one of three";
  EXPECT_EQ(sites.slowest_in_ring(), kFar);
  EXPECT_EQ(sites.speeds().reduce_seconds_per_byte, 1e-10);
  EXPECT_EQ(sites.sites(), nullptr);

  EXPECT_EQ(t.subset({0, 1, 2}).sites(), nullptr) << "of one site";
  EXPECT_EQ(Topology({0, 1, 2, 3}).sites(), nullptr) << "nothing was measured";
}

TEST(Sites, MayBeAtSitesThemselves) {
  std::vector<double> places;
  for (const double far : {0.0, 100.0, 1000.0}) {
    for (const double near : {0.0, 1.0, 20.0, 21.0}) places.push_back(far + near);
  }
  LinkSpeeds speeds;
  for (const double cost : costs_between(places)) speeds.between.push_back({0, cost * 1e-9});
  std::vector<int> hosts;
  for (int host = 0; host < 12; ++host) hosts.push_back(host);
  const Topology t(hosts, speeds);
  ASSERT_NE(t.sites(), nullptr);
  EXPECT_EQ(t.sites()->hosts(), 6);
  ASSERT_NE(t.sites()->sites(), nullptr);
  EXPECT_EQ(t.sites()->sites()->size(), 6);
  EXPECT_EQ(t.sites()->sites()->hosts(), 2) << "800 is farther than 80, by more than 80 than 19";
}

}  // namespace
}  // namespace gearshift::group
