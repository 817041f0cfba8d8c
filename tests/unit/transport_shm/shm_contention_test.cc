#include <gtest/gtest.h>

#include "transport/shm/backoff.h"
#include "transport/shm/contention.h"

namespace gearshift::transport::shm {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr base::TimePoint kBegin{std::chrono::seconds(1)};

base::TimePoint at(base::Duration since_begin) { return kBegin + since_begin; }

TEST(ContentionTest, ShortYieldsAreNoReasonToRest) {
  Contention contention;
  EXPECT_FALSE(contention.resting(kBegin));
  for (int i = 0; i < 100; ++i) {
    contention.yielded(at(milliseconds(i)), at(milliseconds(i) + microseconds(10 * i)));
  }
  contention.yielded(at(microseconds(0)), at(microseconds(999)));
  contention.yielded(at(milliseconds(50)), at(milliseconds(50)));
  EXPECT_FALSE(contention.resting(at(microseconds(999))));
}

TEST(ContentionTest, ALongYieldIsFollowedByARestOfItsLength) {
  Contention contention;
  contention.yielded(at(milliseconds(0)), at(milliseconds(3)));
  EXPECT_TRUE(contention.resting(at(milliseconds(3))));
  EXPECT_TRUE(contention.resting(at(microseconds(5999))));
  EXPECT_FALSE(contention.resting(at(milliseconds(6))));
}

TEST(ContentionTest, RestsGrowWhileYieldsAreLongUpToSixtyFour) {
  Contention contention;
  base::TimePoint now = kBegin;
  base::Duration last{0};
  for (const int times : {1, 2, 4, 8, 16, 32, 64, 64, 64}) {
    const base::TimePoint begun = now;
    now = now + milliseconds(2);
    contention.yielded(begun, now);
    last = times * milliseconds(2);
    EXPECT_TRUE(contention.resting(now + (last - microseconds(1)))) << times;
    EXPECT_FALSE(contention.resting(now + last)) << times;
    now = now + last;
  }
}

TEST(ContentionTest, RestsAreShortAgainAfterYieldsThatWereShortForAsLong) {
  Contention contention;
  contention.yielded(at(milliseconds(0)), at(milliseconds(2)));    // rests to 4
  contention.yielded(at(milliseconds(4)), at(milliseconds(6)));    // and to 10
  contention.yielded(at(milliseconds(15)), at(milliseconds(17)));  // 5 later, of 4
  EXPECT_TRUE(contention.resting(at(microseconds(18'999))));
  EXPECT_FALSE(contention.resting(at(milliseconds(19))));
}

TEST(ContentionTest, AmongMoreRanksThanProcessorsRestsAreShort) {
  Contention contention;
  contention.crowd();
  contention.yielded(at(milliseconds(0)), at(milliseconds(2)));
  EXPECT_TRUE(contention.resting(at(microseconds(3'999))));
  EXPECT_FALSE(contention.resting(at(milliseconds(4))));
  contention.yielded(at(milliseconds(4)), at(milliseconds(34)));  // a peer that computes
  EXPECT_TRUE(contention.resting(at(microseconds(37'999))));
  EXPECT_FALSE(contention.resting(at(milliseconds(38))));
}

TEST(ContentionTest, WhoRestsIsToldToSleepAfterSpinning) {
  const auto scheduler = base::make_os_scheduler();
  Contention contention;
  const auto pauses = [&] {
    Backoff backoff(*scheduler, milliseconds(2), contention);
    int spins = 0;
    int yields = 0;
    while (backoff.pause()) ++(backoff.spinning() ? spins : yields);
    EXPECT_GT(spins, 0);
    return yields;
  };
  const base::TimePoint now = scheduler->now();
  contention.yielded(now, now + std::chrono::hours(1));
  EXPECT_LE(pauses(), 1) << "the last spin";
  base::TimePoint later = scheduler->now();
  EXPECT_FALSE(contention.yield(*scheduler, later));

  Contention none;
  base::TimePoint before = scheduler->now();
  const base::TimePoint began = before;
  EXPECT_TRUE(none.yield(*scheduler, before));
  EXPECT_GT(before, began) << "the time afterwards";
}

}  // namespace
}  // namespace gearshift::transport::shm
