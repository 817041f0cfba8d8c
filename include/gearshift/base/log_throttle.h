#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "gearshift/base/log.h"
#include "gearshift/base/scheduler.h"

namespace gearshift::base {

/// For lines that strangers can cause at will: lets kBurst of them through at once, then one per
/// kPause, which says how many were left out. Thread-safety: all methods.
class LogThrottle {
 public:
  static constexpr int kBurst = 10;
  static constexpr Duration kPause = std::chrono::seconds(1);

  explicit LogThrottle(Scheduler& scheduler);
  void log(LogLevel level, std::string_view module, std::string text);

 private:
  /// Whether a line may be written now, and how many were left out before it.
  bool admit(int& left_out);

  Scheduler& scheduler_;
  std::unique_ptr<Monitor> monitor_;
  int budget_ = kBurst;
  int left_out_ = 0;
  TimePoint refilled_;
};

}  // namespace gearshift::base
