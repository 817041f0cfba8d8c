#include "transport/patience.h"

#include <gtest/gtest.h>

namespace gearshift::transport {
namespace {

using base::TimePoint;
using std::chrono::seconds;

TimePoint at(int second) { return {seconds(second)}; }

/// Looks when it wants to until it is over, and returns when that is. `moved(t)` is what has moved
/// until then.
template <typename Moved>
TimePoint end_of(Patience patience, bool begun, Moved moved) {
  for (TimePoint now = patience.next_look();; now = patience.next_look()) {
    if (patience.is_over(now, moved(now), begun)) return now;
  }
}

TEST(PatienceTest, WithoutMovementTheDeadlineStands) {
  const auto still = [](TimePoint) { return 7; };
  EXPECT_EQ(end_of(Patience(at(100), at(108), 7), true, still), at(108));
  EXPECT_EQ(end_of(Patience(at(108)), true, still), at(108));
}

TEST(PatienceTest, MovementPutsTheEndOffByAsMuchAsTheDeadlineWasAway) {
  // Moves until second 150, seen at the look after it: one every 2 s.
  const auto until = [](TimePoint t) {
    return static_cast<std::uint64_t>(std::min(t, at(150)).since_origin.count());
  };
  const TimePoint end = end_of(Patience(at(100), at(108), until(at(100))), true, until);
  EXPECT_GE(end, at(158));
  EXPECT_LE(end, at(160));
}

TEST(PatienceTest, WhatPassesIsNoProofForEverThatAMessageComes) {
  const auto always = [](TimePoint t) {
    return static_cast<std::uint64_t>(t.since_origin.count());
  };
  const TimePoint end = end_of(Patience(at(100), at(108), always(at(100))), false, always);
  EXPECT_EQ(end, at(100 + 8 * Patience::kMostTimeouts));
}

TEST(PatienceTest, ADeadlineThatHasPassedAndOneThatNeverComesStand) {
  Patience over(at(100), at(100), 1);
  EXPECT_EQ(over.next_look(), at(100));
  EXPECT_TRUE(over.is_over(at(100), 2, true));
  EXPECT_EQ(Patience(at(100), TimePoint::never(), 1).next_look(), TimePoint::never());
}

TEST(PatienceTest, ADeadlineInCenturiesDoesNotOverflow) {
  Patience patience(at(100), at(100) + seconds(9'000'000'000), 1);
  EXPECT_FALSE(patience.is_over(patience.next_look(), 2, false));
  EXPECT_GT(patience.next_look(), at(100));
}

}  // namespace
}  // namespace gearshift::transport
