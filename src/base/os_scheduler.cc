#include <pthread.h>

#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "gearshift/base/scheduler.h"

namespace gearshift::base {
namespace {

using Clock = std::chrono::steady_clock;

/// Far deadlines are cut to this, so that adding them to the clock cannot overflow.
constexpr Duration kLongestWait = std::chrono::hours(1);

TimePoint os_now() {
  return {std::chrono::duration_cast<Duration>(Clock::now().time_since_epoch())};
}

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
};

}  // namespace

std::unique_ptr<Scheduler> make_os_scheduler() { return std::make_unique<OsScheduler>(); }

}  // namespace gearshift::base
