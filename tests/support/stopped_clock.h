#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "gearshift/base/scheduler.h"

namespace gearshift::testing {

/// Time passes when the test says so, and in sleeps, which take none of the real one.
class StoppedClock final : public base::Scheduler {
 public:
  base::TimePoint now() const override { return now_; }
  void pass(base::Duration d) { now_ = now_ + d; }
  void sleep_until(base::TimePoint when) override { now_ = when; }
  std::unique_ptr<base::Task> spawn(std::string name, std::function<void()> body) override {
    return real_->spawn(std::move(name), std::move(body));
  }
  std::unique_ptr<base::Monitor> make_monitor() override { return real_->make_monitor(); }

 private:
  std::unique_ptr<base::Scheduler> real_ = base::make_os_scheduler();
  base::TimePoint now_;
};

}  // namespace gearshift::testing
