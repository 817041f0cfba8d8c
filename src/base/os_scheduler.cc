#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "gearshift/base/scheduler.h"

namespace gearshift::base {
namespace {

using Clock = std::chrono::steady_clock;

/// Far deadlines are cut to this, so that adding them to the clock cannot overflow.
constexpr Duration kLongestWait = std::chrono::hours(1);

/// Real time without that in which the whole process stood still (see Scheduler::tick).
///
/// Whoever looks at the clock first after a pause takes it out for all, be it the task that ticks
/// or one whose deadline has passed meanwhile: which of them runs first is chance.
class RunningClock {
 public:
  TimePoint now() {
    while (true) {
      const std::int64_t left_out = left_out_.load(std::memory_order_acquire);
      const std::int64_t real = real_now();
      if (real > due_.load(std::memory_order_acquire)) {
        std::lock_guard<std::mutex> lock(mutex_);
        leave_out_until(real);
      } else if (left_out_.load(std::memory_order_acquire) == left_out) {
        return {Duration(real - left_out)};
      }
    }
  }

  void tick(Duration within) {
    [[maybe_unused]] static const int registered =
        ::pthread_atfork(nullptr, nullptr, [] { forget(); });
    std::lock_guard<std::mutex> lock(mutex_);
    const std::int64_t real = real_now();
    leave_out_until(real);
    span_ = within > kLongestWait ? 0 : 2 * within.count();
    due_.store(span_ == 0 ? kNever : real + span_, std::memory_order_release);
  }

 private:
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

  static std::int64_t real_now() {
    return std::chrono::duration_cast<Duration>(Clock::now().time_since_epoch()).count();
  }
  /// In a forked child nobody ticks, and somebody may have held the mutex.
  static void forget();

  /// Caller holds the mutex. What is due goes up last: who sees that it has sees the rest, too.
  void leave_out_until(std::int64_t real) {
    const std::int64_t due = due_.load(std::memory_order_relaxed);
    if (real <= due) return;
    left_out_.fetch_add(real - due, std::memory_order_release);
    due_.store(real + span_, std::memory_order_release);
  }

  std::mutex mutex_;
  std::atomic<std::int64_t> left_out_{0};  ///< nanoseconds
  std::atomic<std::int64_t> due_{kNever};  ///< real time by which there is a tick
  std::int64_t span_ = 0;                  ///< from a tick until then; guarded by the mutex
};

RunningClock running_clock;

void RunningClock::forget() {
  new (&running_clock.mutex_) std::mutex;
  running_clock.due_.store(kNever, std::memory_order_relaxed);
}

TimePoint os_now() { return running_clock.now(); }

class OsMonitor final : public Monitor {
 public:
  void lock() override { mutex_.lock(); }
  void unlock() override { mutex_.unlock(); }
  void notify_all() override { condition_.notify_all(); }

  bool wait_until(TimePoint deadline) override {
    std::unique_lock<std::mutex> held(mutex_, std::adopt_lock);
    const TimePoint now = os_now();
    bool in_time = true;
    if (deadline <= now) {
      in_time = false;
    } else if (deadline - now > kLongestWait) {
      condition_.wait_for(held, kLongestWait);
    } else {
      condition_.wait_for(held, deadline - now);
      in_time = os_now() < deadline;
    }
    held.release();
    return in_time;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
};

class OsTask final : public Task {
 public:
  OsTask(std::string name, std::function<void()> body)
      : thread_([name = std::move(name), body = std::move(body)] {
          pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
          body();
        }) {}
  ~OsTask() override { join(); }
  void join() override {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::thread thread_;
};

class OsScheduler final : public Scheduler {
 public:
  TimePoint now() const override { return os_now(); }
  void sleep_until(TimePoint when) override {
    const Duration rest = when - os_now();
    if (rest > Duration::zero()) std::this_thread::sleep_for(rest);
  }
  std::unique_ptr<Task> spawn(std::string name, std::function<void()> body) override {
    try {
      return std::make_unique<OsTask>(name, std::move(body));
    } catch (const std::system_error& error) {
      throw std::system_error(error.code(), "no thread for " + name +
                                                " (see `ulimit -u`, `ulimit -v`, and the limits "
                                                "of this container)");
    }
  }
  std::unique_ptr<Monitor> make_monitor() override { return std::make_unique<OsMonitor>(); }
  void tick(Duration within) override { running_clock.tick(within); }
};

}  // namespace

std::unique_ptr<Scheduler> make_os_scheduler() { return std::make_unique<OsScheduler>(); }

}  // namespace gearshift::base
