#pragma once

#include <algorithm>
#include <cstdint>

#include "gearshift/base/scheduler.h"

namespace gearshift::transport {

/// When to give up on a request of a link: at its deadline, unless the link moves payload. Now and
/// then the one that waits looks at the link; if it has moved, the end is put off until so long
/// after this look as the deadline was away in the beginning. So a slow link is no failure, and one
/// that stands still is found as late as the deadline says, and a fourth of it at most.
///
/// What passes is no proof for a message that has not begun: it may never come. Its end is put off
/// up to `kMostTimeouts` of the first.
class Patience {
 public:
  static constexpr int kLooks = 4;  ///< from one end to the next
  static constexpr int kMostTimeouts = 20;

  /// The deadline stands.
  explicit Patience(base::TimePoint deadline) : end_(deadline), next_(deadline) {}
  /// It moves while `moved` does. A deadline of now or before stands.
  Patience(base::TimePoint now, base::TimePoint deadline, std::uint64_t moved)
      : Patience(deadline) {
    if (deadline <= now || deadline == base::TimePoint::never()) return;
    span_ = deadline - now;
    last_ = span_ > base::Duration::max() / kMostTimeouts ? base::TimePoint::never()
                                                          : now + kMostTimeouts * span_;
    moved_ = moved;
    next_ = now + span_ / kLooks;
  }

  base::TimePoint next_look() const { return next_; }
  /// Whether the end has come, at the time of the next look. `begun`: bytes of the message have
  /// crossed the link.
  bool is_over(base::TimePoint now, std::uint64_t moved, bool begun) {
    if (span_ == base::Duration::zero()) return true;
    if (moved != moved_) {
      moved_ = moved;
      end_ = begun ? now + span_ : std::min(now + span_, last_);
    }
    if (now >= end_) return true;
    next_ = std::min(now + span_ / kLooks, end_);
    return false;
  }

 private:
  base::TimePoint end_;
  base::TimePoint next_;
  base::TimePoint last_{};  ///< while the message has not begun
  base::Duration span_{0};
  std::uint64_t moved_ = 0;
};

}  // namespace gearshift::transport
