#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "gearshift/base/scheduler.h"

namespace gearshift::testing {

/// Real time, and no more threads once `none_left` is set, or `spare` of them were made: like a
/// process at the limit of its user or its container. With `refusals`, for so many times only.
class FewThreads final : public base::Scheduler {
 public:
  std::atomic<bool> none_left{false};
  std::atomic<int> spare{1 << 20};
  std::atomic<int> refusals{0};

  base::TimePoint now() const override { return inner_->now(); }
  void sleep_until(base::TimePoint when) override { inner_->sleep_until(when); }
  std::unique_ptr<base::Monitor> make_monitor() override { return inner_->make_monitor(); }
  std::unique_ptr<base::Task> spawn(std::string name, std::function<void()> body) override {
    const bool refused = refusals > 0 && refusals-- > 0;
    if (none_left || refused || spare-- <= 0)
      throw std::system_error(EAGAIN, std::generic_category());
    return inner_->spawn(std::move(name), std::move(body));
  }

 private:
  std::unique_ptr<base::Scheduler> inner_ = base::make_os_scheduler();
};

}  // namespace gearshift::testing
