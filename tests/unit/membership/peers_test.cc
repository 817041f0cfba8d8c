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

TEST(Peers, NumbersOfMessagesWrapAround) {
  const base::TimePoint begin;
  Peers peers(2, base::Rank(0), begin);
  for (std::uint32_t sequence : {0x7000'0000U, 0xE000'0000U, 0xFFFF'FFF0U}) {
    peers.heard(1, sequence, {41, "push", 0}, begin);
  }
  peers.heard(1, 5, {42, "idle", 0}, begin);
  EXPECT_EQ(peers.last_known(1), "while it was idle at step 42");
  peers.heard(1, 0xFFFF'FFFFU, {41, "push", 0}, begin);
  EXPECT_EQ(peers.last_known(1), "while it was idle at step 42") << "it was overtaken";
}

}  // namespace
}  // namespace gearshift::membership
