#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace gearshift::base {

/// Time on a scheduler's clock, in nanoseconds since an origin of the scheduler's choice.
using Duration = std::chrono::nanoseconds;
struct TimePoint {
  Duration since_origin{0};

  constexpr auto operator<=>(const TimePoint&) const = default;
  static constexpr TimePoint never() { return {Duration::max()}; }
};
/// What lies beyond the clock's range is never.
constexpr TimePoint operator+(TimePoint t, Duration d) {
  const bool beyond = d > Duration::zero() && t.since_origin > Duration::max() - d;
  return beyond || t == TimePoint::never() ? TimePoint::never() : TimePoint{t.since_origin + d};
}
constexpr Duration operator-(TimePoint a, TimePoint b) { return a.since_origin - b.since_origin; }
constexpr double to_seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
/// Durations beyond the range of 292 years are cut to it.
constexpr Duration from_seconds(double s) {
  constexpr double kMost = 9.2e9;
  if (s >= kMost) return Duration::max();
  if (s <= -kMost) return -Duration::max();
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(s));
}

/// A mutex and a condition in one: what a scheduler's tasks wait on.
///
/// Satisfies BasicLockable, so `std::lock_guard<Monitor>` works. Thread-safety: all of it.
class Monitor {
 public:
  virtual ~Monitor() = default;
  virtual void lock() = 0;
  virtual void unlock() = 0;
  /// Caller holds the lock. Returns when notified, spuriously, or at `deadline`; false at the
  /// deadline. The lock is held again on return.
  virtual bool wait_until(TimePoint deadline) = 0;
  virtual void notify_all() = 0;
};

/// A running task. Destroying it joins.
class Task {
 public:
  virtual ~Task() = default;
  /// Waits until the body has returned. Idempotent; one joiner at a time.
  virtual void join() = 0;
};

/// What a task does with memory, besides what the caller's own program computes.
enum class Work : unsigned char {
  kCombine,  ///< received data is reduced into memory; bytes combined
  kUpdate,   ///< an optimizer is applied; bytes of parameters
  kCopy,     ///< memory is copied within the process; bytes copied
};

/// Clock, sleep, tasks and monitors: everything above the transports waits through this and
/// nothing else, so that the same code runs on OS threads and on a virtual clock.
///
/// Thread-safety: all methods, from any task of this scheduler.
class Scheduler {
 public:
  virtual ~Scheduler() = default;
  virtual TimePoint now() const = 0;
  virtual void sleep_until(TimePoint when) = 0;
  /// Runs `body` concurrently. `name` shows in debuggers (15 characters on Linux) and reports.
  virtual std::unique_ptr<Task> spawn(std::string name, std::function<void()> body) = 0;
  virtual std::unique_ptr<Monitor> make_monitor() = 0;
  /// Called by the task that does the work. Real time passes by itself; a virtual clock advances
  /// here by what the work would take, so this may block: not to be called with a monitor held.
  virtual void work(Work kind, std::size_t bytes) {
    static_cast<void>(kind);
    static_cast<void>(bytes);
  }

  /// Some task says that it will say so again before `within` has passed; Duration::max() ends
  /// that. If real time goes on for twice as long first, the whole process has stood still
  /// (SIGSTOP, a container or a job that was suspended): the clock leaves out the rest, so that no
  /// deadline passes in it. Needless on a virtual clock.
  virtual void tick(Duration within) { static_cast<void>(within); }

  void sleep_for(Duration d) { sleep_until(now() + d); }
  TimePoint after(Duration d) const { return now() + d; }
};

/// The scheduler of real time: tasks are threads, the clock is steady. One per process is enough.
std::unique_ptr<Scheduler> make_os_scheduler();

}  // namespace gearshift::base
