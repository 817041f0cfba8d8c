#pragma once

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "gearshift/base/scheduler.h"

namespace gearshift::strategy {

/// The scheduler of real time, which adds up the work that it is told of, and finds fault with work
/// under a lock, where a virtual clock could not block.
class WorkScheduler final : public base::Scheduler {
 public:
  base::TimePoint now() const override { return real_->now(); }
  void sleep_until(base::TimePoint when) override { real_->sleep_until(when); }
  std::unique_ptr<base::Task> spawn(std::string name, std::function<void()> body) override {
    return real_->spawn(std::move(name), std::move(body));
  }
  std::unique_ptr<base::Monitor> make_monitor() override {
    return std::make_unique<CountingMonitor>(real_->make_monitor());
  }
  void work(base::Work kind, std::size_t bytes) override {
    EXPECT_EQ(held(), 0) << "work while a monitor is held";
    EXPECT_GT(bytes, 0U);
    bytes_[static_cast<std::size_t>(kind)] += bytes;
  }

  std::size_t bytes(base::Work kind) const { return bytes_[static_cast<std::size_t>(kind)]; }

 private:
  /// Monitors that this thread holds.
  static int& held() {
    thread_local int count = 0;
    return count;
  }

  class CountingMonitor final : public base::Monitor {
   public:
    explicit CountingMonitor(std::unique_ptr<base::Monitor> real) : real_(std::move(real)) {}
    void lock() override {
      real_->lock();
      ++held();
    }
    void unlock() override {
      --held();
      real_->unlock();
    }
    bool wait_until(base::TimePoint deadline) override { return real_->wait_until(deadline); }
    void notify_all() override { real_->notify_all(); }

   private:
    std::unique_ptr<base::Monitor> real_;
  };

  std::unique_ptr<base::Scheduler> real_ = base::make_os_scheduler();
  std::array<std::atomic<std::size_t>, 3> bytes_{};
};

}  // namespace gearshift::strategy
