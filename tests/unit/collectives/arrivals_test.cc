#include "gearshift/collectives/arrivals.h"

#include <gtest/gtest.h>

#include <latch>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

constexpr std::size_t kLetter = 3;

std::vector<std::byte> letter(int from, int number) {
  return {static_cast<std::byte>(from), static_cast<std::byte>(number), std::byte{7}};
}

class ArrivalsOver : public OverWires {};

/// In an order that is none of ranks, and each a second time.
TEST_P(ArrivalsOver, AreToldAsTheyCome) {
  World world = make_world();
  std::latch second_told(1), third_told(1);
  world.run([&](group::Group& group) {
    const int r = group.rank().value;
    if (r != 0) {
      if (r == 1) second_told.wait();
      if (r == 2) third_told.wait();
      for (const int number : {0, 1}) {
        EXPECT_TRUE(send(group, letter(r, number), base::Rank(0)).ok());
      }
      return;
    }
    Arrivals arrivals(group);
    for (const int from : {1, 2, 3}) arrivals.expect(base::Rank(from), kLetter);
    for (const int from : {3, 1, 2}) {
      for (const int number : {0, 1}) {
        const auto told = arrivals.next(group.deadline());
        ASSERT_TRUE(told);
        EXPECT_EQ(told->value, from);
        const auto message = arrivals.take(*told);
        ASSERT_TRUE(message.ok()) << message.error().to_string();
        EXPECT_EQ(*message, letter(from, number));
        if (number == 0) arrivals.expect(*told, kLetter);
      }
      if (from == 3) second_told.count_down();
      if (from == 1) third_told.count_down();
    }
    EXPECT_FALSE(arrivals.next(group.scheduler().now()));
  });
}

TEST_P(ArrivalsOver, TellWhatHasFailed) {
  World world = make_world();
  std::latch withdrawn(1);
  world.run([&](group::Group& group) {
    const int r = group.rank().value;
    if (r == 1) {
      EXPECT_TRUE(send(group, letter(1, 0), base::Rank(0)).ok());
    }
    if (r == 2) group.abort({base::ErrorCode::kAborted, "rank 2 has had enough", 2});
    if (r == 3) withdrawn.wait();
    if (r != 0) return;
    {
      Arrivals arrivals(group);
      for (const int from : {1, 2, 3}) arrivals.expect(base::Rank(from), from == 1 ? 1 : kLetter);
      std::vector<bool> told(4);
      for (int i = 0; i < 2; ++i) {
        const auto from = arrivals.next(group.deadline());
        ASSERT_TRUE(from);
        told[static_cast<std::size_t>(from->value)] = true;
        const auto message = arrivals.take(*from);
        ASSERT_FALSE(message.ok());
        EXPECT_EQ(message.error().culprit, from->value) << message.error().to_string();
        EXPECT_EQ(message.error().code == base::ErrorCode::kMismatch, from->value == 1);
      }
      EXPECT_TRUE(told[1] && told[2]);
    }
    withdrawn.count_down();
  });
}

TEST_P(ArrivalsOver, WakeWhoWaits) {
  World world = make_world();
  group::Group& group = world.at(0);
  Arrivals arrivals(group);
  arrivals.expect(base::Rank(2), kLetter);
  const auto task = group.scheduler().spawn("waker", [&] { arrivals.wake(); });
  EXPECT_FALSE(arrivals.next(base::TimePoint::never()));
  task->join();
}

INSTANTIATE_TEST_SUITE_P(Wires, ArrivalsOver, ::testing::ValuesIn(settings({4})), name_of);

}  // namespace
}  // namespace gearshift::collectives::testing
