#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "gearshift/base/scheduler.h"

namespace gearshift::runtime {

/// When it is time to tell whom a rank waits for: soon, and ever more seldom.
class Notices {
 public:
  /// `timeout`: the first does not come later.
  Notices(const base::Scheduler& scheduler, base::Duration timeout)
      : scheduler_(scheduler),
        gap_(std::min<base::Duration>(timeout, std::chrono::seconds(10))),
        begin_(scheduler.now()),
        next_(scheduler.after(gap_)) {}

  /// Whether it is time for one, which the caller then gives.
  bool due() {
    if (scheduler_.now() < next_) return false;
    gap_ *= 2;
    next_ = scheduler_.after(gap_);
    return true;
  }
  /// Whole seconds since the beginning.
  std::int64_t waited() const {
    return std::chrono::floor<std::chrono::seconds>(scheduler_.now() - begin_).count();
  }

 private:
  const base::Scheduler& scheduler_;
  base::Duration gap_;
  base::TimePoint begin_, next_;
};

}  // namespace gearshift::runtime
