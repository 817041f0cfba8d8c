#include "gearshift/collectives/cost.h"

#include <gtest/gtest.h>

#include <string>

namespace gearshift::collectives {
namespace {

constexpr LinkModel kLink{
    .latency = 1e-5, .seconds_per_byte = 1e-9, .reduce_seconds_per_byte = 1e-10};

TEST(Cost, FollowsTheModel) {
  // Ring over 4: 6 messages of 250 kB, 3 of them combined.
  EXPECT_NEAR(predict(Algorithm::kRing, 1'000'000, 4, kLink), 6 * (1e-5 + 2.5e-4) + 3 * 2.5e-5,
              1e-12);
  // Recursive doubling over 4: 2 messages of 1 MB, both combined.
  EXPECT_NEAR(predict(Algorithm::kRecursiveDoubling, 1'000'000, 4, kLink),
              2 * (1e-5 + 1e-3) + 2 * 1e-4, 1e-12);
  // Over 5: folding in and out, one more combination.
  EXPECT_NEAR(predict(Algorithm::kRecursiveDoubling, 1'000'000, 5, kLink),
              4 * (1e-5 + 1e-3) + 3 * 1e-4, 1e-12);
}

TEST(Cost, NothingToDoTakesNoTime) {
  EXPECT_EQ(predict(Algorithm::kRing, 1000, 1, kLink), 0);
  EXPECT_EQ(predict(Algorithm::kAuto, 0, 8, kLink), 0);
}

TEST(Cost, SmallArraysAreDoubledAndLargeOnesGoRound) {
  for (const int ranks : {3, 4, 8, 64}) {
    EXPECT_EQ(choose(64, ranks, kLink).algorithm, Algorithm::kRecursiveDoubling);
    EXPECT_EQ(choose(100 << 20, ranks, kLink).algorithm, Algorithm::kRing);
  }
}

TEST(Cost, TheChoiceIsTheFastestAndSaysWhy) {
  for (std::size_t bytes = 4; bytes < (1u << 28); bytes *= 7) {
    for (int ranks = 2; ranks < 20; ++ranks) {
      const Choice choice = choose(bytes, ranks, kLink);
      EXPECT_EQ(choice.algorithm, fastest(bytes, ranks, kLink));
      EXPECT_EQ(choice.predicted_seconds, predict(Algorithm::kAuto, bytes, ranks, kLink));
      for (const Algorithm other : {Algorithm::kRing, Algorithm::kRecursiveDoubling}) {
        EXPECT_LE(choice.predicted_seconds, predict(other, bytes, ranks, kLink));
      }
    }
  }
  EXPECT_EQ(choose(1'000'000, 4, kLink).reason,
            "1000000 bytes over 4 ranks: recursive_doubling 2220.0 us, ring 1635.0 us; chosen: "
            "ring");
}

TEST(Cost, BroadcastUsesTheTreeForSmallArraysOnly) {
  EXPECT_FALSE(broadcast_prefers_chain(1000, 8, kLink));
  EXPECT_TRUE(broadcast_prefers_chain(100 << 20, 8, kLink));
}

TEST(Cost, AlgorithmsHaveNames) {
  for (const Algorithm a : {Algorithm::kAuto, Algorithm::kRing, Algorithm::kRecursiveDoubling}) {
    EXPECT_EQ(algorithm_from_string(to_string(a)), a);
  }
  EXPECT_EQ(algorithm_from_string("magic"), std::nullopt);
}

}  // namespace
}  // namespace gearshift::collectives
