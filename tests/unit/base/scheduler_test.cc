#include "gearshift/base/scheduler.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <limits>
#include <mutex>

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

double real_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// How long a wait takes by real time in a child process that is stopped meanwhile.
double wait_across_a_pause(Duration wait, bool ticks, std::chrono::milliseconds pause) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto scheduler = make_os_scheduler();
    std::atomic<bool> over{false};
    const auto ticker = scheduler->spawn("ticker", [&] {
      while (ticks && !over) {
        scheduler->tick(std::chrono::milliseconds(20));
        ::usleep(5000);
      }
      scheduler->tick(Duration::max());
    });
    const auto monitor = scheduler->make_monitor();
    ::usleep(50'000);  // it ticks
    const double begin = real_seconds();
    const TimePoint deadline = scheduler->after(wait);
    (void)!::write(ends[1], "!", 1);
    {
      std::lock_guard<Monitor> lock(*monitor);
      while (monitor->wait_until(deadline)) {
      }
    }
    const double taken = real_seconds() - begin;
    (void)!::write(ends[1], &taken, sizeof taken);
    over = true;
    ticker->join();
    ::_exit(0);
  }
  char ready = 0;
  EXPECT_EQ(::read(ends[0], &ready, 1), 1);
  EXPECT_EQ(::kill(child, SIGSTOP), 0);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, WUNTRACED), child);
  ::usleep(static_cast<useconds_t>(1000 * pause.count()));
  EXPECT_EQ(::kill(child, SIGCONT), 0);
  double taken = 0;
  EXPECT_EQ(::read(ends[0], &taken, sizeof taken), ssize_t{sizeof taken});
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  for (const int end : ends) ::close(end);
  return taken;
}

TEST(OsScheduler, LeavesOutWhatItsProcessStoodStillFor) {
  const auto pause = std::chrono::milliseconds(1000);
  const auto wait = std::chrono::milliseconds(500);
  // Up to 40 ms of the pause count, for so long nobody knows that it is one.
  EXPECT_GE(wait_across_a_pause(wait, true, pause), 1.4);
}

TEST(OsScheduler, TakesALongComputationForNoPause) {
  const auto scheduler = make_os_scheduler();
  const TimePoint begin = scheduler->now();
  const double real_begin = real_seconds();
  ::usleep(100'000);  // nobody has promised to tick
  const double real = real_seconds() - real_begin;
  EXPECT_GE(to_seconds(scheduler->now() - begin), real);
}

}  // namespace
}  // namespace gearshift::base
