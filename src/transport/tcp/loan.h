#pragma once

#include <atomic>
#include <utility>

#include "gearshift/base/scheduler.h"

namespace gearshift::transport::tcp {

/// Whether a stream is lent by the reactor's task to those that wait for its messages, who then
/// read it themselves (docs/decisions/0020). It stays lent between their waits, so that what comes
/// meanwhile wakes nobody, and goes home when none has waited for `kIdle`, or when something has
/// come for a mailbox: who waits there would be served late.
///
///   home --take--> taken --leave--> idle --take--> taken
///                                   idle --end--> home
///
/// Thread-safety: none, but for `lent`.
class Loan {
 public:
  /// What comes to an idle stream for somebody else may lie there so long, and once more.
  static constexpr base::Duration kIdle = std::chrono::milliseconds(2);
  /// How long a stream is not lent after something has come for a mailbox.
  static constexpr base::Duration kPause = std::chrono::milliseconds(50);

  bool lent() const { return lent_.load(std::memory_order_acquire); }
  bool idle() const { return lent() && !taken_; }
  /// Another task has it, or it is not to be lent now.
  bool refuses(base::TimePoint now) const { return taken_ || now < paused_until_; }

  void take() {
    taken_ = true;
    lent_.store(true, std::memory_order_release);
  }
  void leave(base::TimePoint now) {
    taken_ = false;
    idle_since_ = now;
  }
  void end() { lent_.store(false, std::memory_order_release); }
  void pause(base::TimePoint now) { paused_until_ = now + kPause; }

  /// How long it may still lie idle; zero or less: it is to go home.
  base::Duration left(base::TimePoint now) const { return kIdle - (now - idle_since_); }

  /// Whether there is no alarm yet; the caller sets one then.
  bool wants_alarm() { return !std::exchange(has_alarm_, true); }
  void alarm_rang() { has_alarm_ = false; }

 private:
  std::atomic<bool> lent_{false};
  bool taken_ = false;
  bool has_alarm_ = false;
  base::TimePoint idle_since_;
  base::TimePoint paused_until_;
};

}  // namespace gearshift::transport::tcp
