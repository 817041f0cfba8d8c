#include "gearshift/base/log_throttle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "support/stopped_clock.h"

namespace gearshift::base {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class LogThrottleTest : public ::testing::Test {
 protected:
  std::string write(int lines) {
    ::testing::internal::CaptureStderr();
    for (int i = 0; i < lines; ++i) {
      throttle_.log(LogLevel::kError, "test", "line " + std::to_string(i));
    }
    return ::testing::internal::GetCapturedStderr();
  }
  static std::ptrdiff_t count(const std::string& text) {
    return std::count(text.begin(), text.end(), '\n');
  }

  testing::StoppedClock clock_;
  LogThrottle throttle_{clock_};
};

TEST_F(LogThrottleTest, ABurstPassesAndTheRestIsCounted) {
  const std::string burst = write(1000);
  EXPECT_EQ(count(burst), LogThrottle::kBurst);
  EXPECT_THAT(burst, Not(HasSubstr("more before it")));
  clock_.pass(LogThrottle::kPause);
  const std::string later = write(5);
  EXPECT_EQ(count(later), 1);
  EXPECT_THAT(later, HasSubstr("line 0 (and 990 more before it)"));
}

TEST_F(LogThrottleTest, OneLinePerPause) {
  write(LogThrottle::kBurst);
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(write(1), IsEmpty());
    clock_.pass(LogThrottle::kPause);
    EXPECT_EQ(count(write(1)), 1);
  }
}

TEST_F(LogThrottleTest, AQuietTimeRestoresTheBurst) {
  write(100);
  clock_.pass(LogThrottle::kPause * 1000);
  EXPECT_EQ(count(write(100)), LogThrottle::kBurst);
}

}  // namespace
}  // namespace gearshift::base
