#pragma once

#include <atomic>

#include "gearshift/base/scheduler.h"

namespace gearshift::strategy {

/// Adds the time until its end to a sum.
class Stopwatch {
 public:
  Stopwatch(base::Scheduler& scheduler, std::atomic<double>& sum)
      : scheduler_(scheduler), sum_(sum), begin_(scheduler.now()) {}
  ~Stopwatch() { sum_ += base::to_seconds(scheduler_.now() - begin_); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  base::Scheduler& scheduler_;
  std::atomic<double>& sum_;
  base::TimePoint begin_;
};

}  // namespace gearshift::strategy
