#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "gearshift/base/scheduler.h"

namespace gearshift::testing {

/// Real time, and what was added to it, as to that of a process that was stopped for so long.
class JumpingClock final : public base::Scheduler {
 public:
  void jump(base::Duration by) { added_ = added_.load() + by.count(); }
  base::TimePoint now() const override { return inner_->now() + base::Duration(added_.load()); }
  void sleep_until(base::TimePoint when) override {
    inner_->sleep_until({when.since_origin - base::Duration(added_.load())});
  }
  std::unique_ptr<base::Monitor> make_monitor() override { return inner_->make_monitor(); }
  std::unique_ptr<base::Task> spawn(std::string name, std::function<void()> body) override {
    return inner_->spawn(std::move(name), std::move(body));
  }

 private:
  std::unique_ptr<base::Scheduler> inner_ = base::make_os_scheduler();
  std::atomic<std::int64_t> added_{0};
};

}  // namespace gearshift::testing
