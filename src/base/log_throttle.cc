#include "gearshift/base/log_throttle.h"

#include <algorithm>
#include <mutex>
#include <utility>

namespace gearshift::base {

LogThrottle::LogThrottle(Scheduler& scheduler)
    : scheduler_(scheduler), monitor_(scheduler.make_monitor()), refilled_(scheduler.now()) {}

void LogThrottle::log(LogLevel level, std::string_view module, std::string text) {
  int left_out = 0;
  if (!log_enabled(level) || !admit(left_out)) return;
  if (left_out > 0) text += " (and " + std::to_string(left_out) + " more before it)";
  base::log(level, module, text);
}

bool LogThrottle::admit(int& left_out) {
  std::lock_guard<Monitor> lock(*monitor_);
  const auto pauses = (scheduler_.now() - refilled_) / kPause;
  budget_ = static_cast<int>(std::min<std::int64_t>(kBurst, budget_ + pauses));
  refilled_ = refilled_ + pauses * kPause;
  if (budget_ == 0) {
    ++left_out_;
    return false;
  }
  --budget_;
  left_out = std::exchange(left_out_, 0);
  return true;
}

}  // namespace gearshift::base
