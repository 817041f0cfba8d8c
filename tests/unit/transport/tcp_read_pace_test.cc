#include <gtest/gtest.h>

#include <vector>

#include "transport/tcp/read_pace.h"

namespace gearshift::transport::tcp {
namespace {

using base::Duration;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::uint64_t kMuch = 1 << 20;

/// A stream whose data come at an even speed, and that is read when the pace says.
class ReadPaceTest : public ::testing::Test {
 protected:
  /// Reads what has come in that time.
  Duration read_after(Duration wait, double bytes_per_second, std::uint64_t missing = kMuch) {
    now = now + wait;
    const auto got = static_cast<std::uint64_t>(base::to_seconds(wait) * bytes_per_second);
    return pace.after_read(got, missing, now);
  }
  /// Packet by packet, until the speed is known.
  Duration learn(double bytes_per_second) {
    Duration rest{0};
    for (int i = 0; i < 20 && rest == Duration::zero(); ++i) {
      rest = read_after(base::from_seconds(3000 / bytes_per_second), bytes_per_second);
    }
    return rest;
  }
  ReadMeter meter;
  ReadPace pace{meter};
  base::TimePoint now = base::TimePoint{} + milliseconds(1);
};

TEST_F(ReadPaceTest, DataGatherOnceTheSpeedIsKnown) {
  EXPECT_EQ(read_after(milliseconds(1), 12e6), Duration::zero()) << "of the first bytes, unknown";
  const Duration rest = learn(12e6);
  EXPECT_NEAR(base::to_seconds(rest), 32768 / 12e6, 1e-4);
  for (int i = 0; i < 5; ++i)
    EXPECT_NEAR(base::to_seconds(read_after(rest, 12e6)), 32768 / 12e6, 1e-4);
}

TEST_F(ReadPaceTest, NearTheEndItIsReadEarlier) {
  const Duration rest = learn(12e6);
  EXPECT_NEAR(base::to_seconds(read_after(rest, 12e6, 20'000)), 0.75 * 20'000 / 12e6, 1e-4);
  EXPECT_EQ(read_after(rest, 12e6, 1'000), Duration::zero()) << "sooner than a timer is worth";
  EXPECT_EQ(read_after(rest, 12e6, 0), Duration::zero()) << "nothing long is under way";
}

TEST_F(ReadPaceTest, FastLinksAreReadAtOnce) {
  EXPECT_EQ(learn(1.2e9), Duration::zero());
  EXPECT_EQ(learn(60e6), Duration::zero());
}

TEST_F(ReadPaceTest, ManySlowStreamsAreAFastLink) {
  Duration rest = learn(12e6);
  std::vector<ReadPace> others(5, ReadPace(meter));
  for (int i = 0; i < 20; ++i) {
    for (ReadPace& other : others) other.after_read(32'768, kMuch, now);
    rest = read_after(std::chrono::microseconds(2730), 12e6);
  }
  EXPECT_EQ(rest, Duration::zero());
  EXPECT_GT(meter.peak(), 60e6);
  // And when the others have ended, they are forgotten after a while.
  for (int i = 0; i < 400 && rest == Duration::zero(); ++i) {
    rest = read_after(milliseconds(1), 12e6);
  }
  EXPECT_GT(rest, Duration::zero());
}

TEST_F(ReadPaceTest, SlowStreamsAreNotLeftAloneForLong) {
  EXPECT_EQ(learn(1e6), Duration(milliseconds(5)));
}

TEST_F(ReadPaceTest, AStreamThatStandsStillIsAwaited) {
  const Duration rest = learn(12e6);
  EXPECT_EQ(read_after(rest, 0), Duration::zero());
  EXPECT_GT(read_after(milliseconds(50), 1e5), Duration::zero()) << "the speed is still known";
}

TEST_F(ReadPaceTest, ASpeedThatGrowsIsFollowedAtOnceAndOneThatFallsByHalves) {
  const Duration rest = learn(12e6);
  EXPECT_NEAR(base::to_seconds(read_after(rest, 24e6)), 32768 / 24e6, 1e-4);
  EXPECT_NEAR(base::to_seconds(read_after(rest, 12e6)), 32768 / 18e6, 1e-4);
}

}  // namespace
}  // namespace gearshift::transport::tcp
