#include "gearshift/base/scheduler.h"

#include <gtest/gtest.h>

#include <limits>

namespace gearshift::base {
namespace {

TEST(Duration, BeyondTheRangeIsCutToIt) {
  EXPECT_EQ(from_seconds(1.5), std::chrono::milliseconds(1500));
  EXPECT_EQ(from_seconds(1e10), Duration::max());
  EXPECT_EQ(from_seconds(std::numeric_limits<double>::infinity()), Duration::max());
  EXPECT_EQ(from_seconds(-std::numeric_limits<double>::infinity()), -Duration::max());
}

TEST(TimePoint, BeyondTheClocksRangeIsNever) {
  const TimePoint now{std::chrono::hours(24)};
  EXPECT_EQ(now + Duration::max(), TimePoint::never());
  EXPECT_EQ(TimePoint::never() + std::chrono::seconds(-1), TimePoint::never());
  EXPECT_EQ((now + std::chrono::hours(-1)).since_origin, std::chrono::hours(23));
}

}  // namespace
}  // namespace gearshift::base
