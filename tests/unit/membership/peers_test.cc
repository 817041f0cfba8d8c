#include "membership/peers.h"

#include <gtest/gtest.h>

namespace gearshift::membership {
namespace {

TEST(Peers, AMessageThatIsOvertakenSetsNobodyBack) {
  const base::TimePoint begin;
  const auto at = [&](int second) { return begin + std::chrono::seconds(second); };
  Peers peers(2, base::Rank(0), begin);
  peers.heard(1, 7, {41, "push", 0}, at(1));
  peers.heard(1, 6, {40, "idle", 0}, at(2));
  EXPECT_EQ(peers.last_known(1), "while it was in push at step 41");
  EXPECT_EQ(peers.silence(1, at(3)), std::chrono::seconds(1)) << "a sign of life, though";
  peers.heard(1, 8, {42, "idle", 0}, at(3));
  EXPECT_EQ(peers.last_known(1), "while it was idle at step 42");
}

}  // namespace
}  // namespace gearshift::membership
