#include "gearshift/collectives/cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <string>
#include <vector>

#include "gearshift/collectives/survey.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

constexpr group::LinkSpeed kLink{.latency = 1e-5, .seconds_per_byte = 1e-9};
constexpr double kGamma = 1e-10;

Network uniform(int ranks) { return Network::uniform(ranks, kLink, kGamma); }

/// Hosts with 10 µs and 1 GB/s between their ranks, 50 µs and 100 MB/s to others.
Network hosts(int count, int ranks_each) {
  std::vector<int> host_of;
  for (int r = 0; r < count * ranks_each; ++r) host_of.push_back(r / ranks_each);
  return Network(group::Topology(host_of, {.local = kLink,
                                           .remote = {.latency = 5e-5, .seconds_per_byte = 1e-8},
                                           .reduce_seconds_per_byte = kGamma}));
}

TEST(Cost, FollowsTheModel) {
  // Small messages: nothing overlaps. Ring over 4: 6 messages of 25 kB, 3 of them combined.
  EXPECT_NEAR(predict(Algorithm::kRing, 100'000, uniform(4)), 6 * (1e-5 + 2.5e-5) + 3 * 2.5e-6,
              1e-12);
  // Recursive doubling over 4: 2 messages of 100 kB, both combined.
  EXPECT_NEAR(predict(Algorithm::kRecursiveDoubling, 100'000, uniform(4)),
              2 * (1e-5 + 1e-4) + 2 * 1e-5, 1e-12);
  // Over 5: folding in and out, one more combination.
  EXPECT_NEAR(predict(Algorithm::kRecursiveDoubling, 100'000, uniform(5)),
              4 * (1e-5 + 1e-4) + 3 * 1e-5, 1e-12);
  // Rabenseifner over 4: 50 and 25 kB there and back, combined on the way there.
  EXPECT_NEAR(predict(Algorithm::kRabenseifner, 100'000, uniform(4)), 2 * (2e-5 + 7.5e-5) + 7.5e-6,
              1e-12);
}

TEST(Cost, APipelinedRingPaysLatencyOnce) {
  const double part = 8 * 262'144;
  EXPECT_NEAR(predict(Algorithm::kRing, 4 * 8 * 262'144, uniform(4)),
              3 * (2 * part * 1e-9 + part * 1e-10) + 1e-5, 1e-9);
}

TEST(Cost, RanksOfAHostShareItsLink) {
  // 2 hosts with 2 ranks: doubling exchanges B within, then both ranks send B to the other host.
  EXPECT_NEAR(predict(Algorithm::kRecursiveDoubling, 100'000, hosts(2, 2)),
              (1e-5 + 1e-4) + (5e-5 + 2e-3) + 2 * 1e-5, 1e-12);
  // Hierarchical: halves within, there and back, and halves of both ranks between.
  EXPECT_NEAR(predict(Algorithm::kHierarchical, 100'000, hosts(2, 2)),
              2 * (1e-5 + 5e-5) + 5e-6 + (5e-5 + 1e-3) + 5e-6, 1e-12);
}

/// 3 hosts with 2 ranks: two pairs fold, each on its host. So of the four that play, the first two
/// are alone on theirs: B/2 crosses between hosts, as B/4 of both ranks of a host does then.
TEST(Cost, WhoIsAloneAfterFoldingHasPartnersOnOtherHosts) {
  const double folding = 2 * (1e-5 + 1e-4) + 1e-5;
  EXPECT_NEAR(predict(Algorithm::kRabenseifner, 100'000, hosts(3, 2)),
              folding + 2 * (5e-5 + 5e-4) + 5e-6 + 2 * (5e-5 + 5e-4) + 2.5e-6, 1e-12);
  EXPECT_NEAR(predict(Algorithm::kRecursiveDoubling, 100'000, hosts(3, 2)),
              folding + (5e-5 + 1e-3) + (5e-5 + 2e-3) + 2 * 1e-5, 1e-12);
  // With 4 on each, one exchange within the hosts remains: the first two of a host's.
  EXPECT_NEAR(predict(Algorithm::kRecursiveDoubling, 100'000, hosts(3, 4)),
              folding + (1e-5 + 1e-4) + (5e-5 + 2e-3) + (5e-5 + 4e-3) + 3 * 1e-5, 1e-12);
}

TEST(Cost, NothingToDoTakesNoTime) {
  EXPECT_EQ(predict(Algorithm::kRing, 1000, uniform(1)), 0);
  EXPECT_EQ(predict(Algorithm::kAuto, 0, uniform(8)), 0);
}

TEST(Cost, SmallArraysAreDoubledAndLargeOnesAreNot) {
  for (const int ranks : {3, 4, 8, 64}) {
    EXPECT_EQ(choose(64, uniform(ranks)).algorithm, Algorithm::kRecursiveDoubling);
    EXPECT_NE(choose(100 << 20, uniform(ranks)).algorithm, Algorithm::kRecursiveDoubling);
  }
  EXPECT_EQ(choose(100 << 20, uniform(2)).algorithm, Algorithm::kRing);
  EXPECT_EQ(choose(100 << 20, uniform(7)).algorithm, Algorithm::kRing) << "no power of two";
}

/// What the hierarchical algorithm exists for.
TEST(Cost, SeveralRanksPerHostAreServedHostByHost) {
  for (const int count : {2, 3, 4, 5}) {
    for (const int each : {2, 3, 4, 5, 6, 8}) {
      if (std::has_single_bit(static_cast<unsigned>(count * each))) continue;  // others do as well
      EXPECT_EQ(choose(16 << 20, hosts(count, each)).algorithm, Algorithm::kHierarchical)
          << choose(16 << 20, hosts(count, each)).reason;
    }
  }
}

TEST(Cost, TheChoiceIsTheFastestAndSaysWhy) {
  for (std::size_t bytes = 4; bytes < (1u << 28); bytes *= 7) {
    for (int ranks = 2; ranks < 20; ++ranks) {
      for (const Network& network : {uniform(ranks), hosts(2, ranks)}) {
        const Choice choice = choose(bytes, network);
        EXPECT_EQ(choice.algorithm, fastest(bytes, network).algorithm);
        EXPECT_EQ(choice.predicted_seconds, predict(Algorithm::kAuto, bytes, network));
        for (const Algorithm other : kAllAlgorithms) {
          if (other == Algorithm::kHierarchical && network.largest_host == 1) continue;
          EXPECT_LE(choice.predicted_seconds, 1.05 * predict(other, bytes, network));
        }
      }
    }
  }
  EXPECT_EQ(choose(100'000, uniform(5)).reason,
            "100000 bytes over 5 ranks on 5 hosts: ring 248.0 us, rabenseifner 427.5 us, "
            "recursive_doubling 470.0 us, tree 1317.5 us; chosen: ring");
}

TEST(Cost, OfThoseAboutAsFastTheSteadierIsChosen) {
  // Equal bytes, and six messages instead of four: 0.2 % slower by the model.
  const Network slow = Network::uniform(4, {.latency = 5e-5, .seconds_per_byte = 1.6e-7}, 0);
  const double ring = predict(Algorithm::kRing, 200'000, slow);
  EXPECT_GT(ring, predict(Algorithm::kRabenseifner, 200'000, slow));
  EXPECT_EQ(fastest(200'000, slow).algorithm, Algorithm::kRing);
  EXPECT_EQ(fastest(200'000, slow).seconds, ring);
  // A real difference counts.
  const Network far = Network::uniform(8, {.latency = 5e-3, .seconds_per_byte = 1e-9}, 0);
  EXPECT_EQ(fastest(200'000, far).algorithm, Algorithm::kRecursiveDoubling);
}

/// Four hosts; `slow` is between hosts 0 and 2, where the best ring does not pass.
Network one_other_link(const group::LinkSpeed& slow) {
  group::LinkSpeeds speeds{.local = kLink, .remote = kLink, .reduce_seconds_per_byte = kGamma};
  speeds.between.assign(16, kLink);
  speeds.between[0 * 4 + 2] = speeds.between[2 * 4 + 0] = slow;
  return Network(group::Topology({0, 1, 2, 3}, std::move(speeds)));
}

TEST(Cost, ARingDoesNotWinByNoise) {
  const std::size_t bytes = 8192;
  const Network noisy = one_other_link({.latency = 1.4e-5, .seconds_per_byte = 1.4e-9});
  ASSERT_EQ(fastest(bytes, uniform(4)).algorithm, Algorithm::kRecursiveDoubling);
  EXPECT_EQ(fastest(bytes, noisy).algorithm, Algorithm::kRecursiveDoubling);
  EXPECT_DOUBLE_EQ(predict(Algorithm::kRecursiveDoubling, bytes, noisy),
                   predict(Algorithm::kRecursiveDoubling, bytes, uniform(4)));
}

TEST(Cost, ARingThatAvoidsASlowLinkWins) {
  const Network slow = one_other_link({.latency = 1e-4, .seconds_per_byte = 1e-8});
  EXPECT_EQ(fastest(8192, slow).algorithm, Algorithm::kRing);
  EXPECT_DOUBLE_EQ(predict(Algorithm::kRing, 8192, slow),
                   predict(Algorithm::kRing, 8192, uniform(4)));
}

/// Eight hosts, alternately at two sites: 10 µs and 1 GB/s within, 10 ms and 100 MB/s between.
Network two_sites() {
  constexpr group::LinkSpeed kFar{.latency = 1e-2, .seconds_per_byte = 1e-8};
  auto speeds = speeds_at({0, 1, 0, 1, 0, 1, 0, 1}, kLink, kFar);
  speeds.reduce_seconds_per_byte = kGamma;
  return Network(group::Topology({0, 1, 2, 3, 4, 5, 6, 7}, std::move(speeds)));
}

TEST(Cost, HostsShareTheLinkOfTheirSite) {
  // Slices of a quarter: three there and back within the site, and four at once to the other one.
  const double slice = 2.5e4;
  EXPECT_NEAR(
      predict(Algorithm::kHierarchical, 100'000, two_sites()),
      3 * (2 * (1e-5 + slice * 1e-9) + slice * kGamma) + 1e-2 + 4 * slice * 1e-8 + slice * kGamma,
      1e-12);
  EXPECT_EQ(way_between(25'000, two_sites(), 1), Between::kDoubling);
  EXPECT_EQ(way_between(1'000'000'000, two_sites(), 1), Between::kRing) << "combines less";
}

/// A ring crosses twice between two sites, and all parts are on their way at the same time.
TEST(Cost, ARingCrossesBetweenSitesAsOftenAsThereAreSites) {
  const double part = 1e4;
  const double near = 1e-5 + part * 1e-9;
  const double far = 1e-2 + part * 1e-8;
  EXPECT_NEAR(predict(Algorithm::kRing, 80'000, two_sites()),
              7 * (2 * (6 * near + 2 * far) / 8 + part * kGamma), 1e-12);
}

TEST(Cost, SitesAreServedOneByOne) {
  for (const std::size_t bytes : {std::size_t{64}, std::size_t{1} << 20, std::size_t{100} << 20}) {
    const Choice choice = choose(bytes, two_sites());
    EXPECT_EQ(choice.algorithm, Algorithm::kHierarchical) << choice.reason;
    EXPECT_EQ(way_between(bytes, two_sites()), Between::kSites);
  }
  EXPECT_EQ(
      choose(64, two_sites()).reason.rfind("64 bytes over 8 ranks on 8 hosts at 2 sites: ", 0), 0U);
  // One host of five is far away: all others would have to send it everything.
  auto speeds = speeds_at({0, 0, 0, 0, 1}, {1e-5, 1e-8}, {1e-5, 4e-8});
  const Network outsider(group::Topology({0, 1, 2, 3, 4}, std::move(speeds)));
  EXPECT_EQ(outsider.levels, 1);
  EXPECT_NE(choose(100 << 20, outsider).algorithm, Algorithm::kHierarchical);
}

TEST(Cost, OthersMayCompete) {
  const Candidate fast[] = {{Algorithm::kAuto, 1e-9}};
  const Candidate slow[] = {{Algorithm::kAuto, 1e9}};
  EXPECT_EQ(fastest(1000, uniform(4), fast).algorithm, Algorithm::kAuto);
  EXPECT_EQ(fastest(1000, uniform(4), slow).algorithm, Algorithm::kRecursiveDoubling);
  EXPECT_EQ(choose(1000, uniform(4), fast).candidates.size(), 5u);
  EXPECT_EQ(choose(1000, uniform(4), fast).candidates[0].seconds, 1e-9);
}

TEST(Cost, BroadcastUsesTheTreeForSmallArraysOnly) {
  EXPECT_FALSE(broadcast_prefers_chain(1000, 8, kLink));
  EXPECT_TRUE(broadcast_prefers_chain(100 << 20, 8, kLink));
}

TEST(Cost, AlgorithmsHaveNames) {
  EXPECT_EQ(algorithm_names().size(), std::size(kAllAlgorithms) + 2);
  EXPECT_EQ(algorithm_names()[0], "auto");
  for (const auto name : algorithm_names()) {
    EXPECT_EQ(to_string(algorithm_from_string(name).value()), name);
  }
  for (const Algorithm a : kAllAlgorithms) EXPECT_EQ(algorithm_from_string(to_string(a)), a);
  EXPECT_EQ(algorithm_from_string("magic"), std::nullopt);
}

}  // namespace
}  // namespace gearshift::collectives::testing
