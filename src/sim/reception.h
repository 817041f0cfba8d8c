#pragma once

#include <deque>

#include "gearshift/base/scheduler.h"

namespace gearshift::sim {

/// When a rank's processor takes in messages, each for a while. They are announced when they leave;
/// one from near may come before one from far away that has left earlier. Not thread-safe.
class Reception {
 public:
  /// The next message comes at `there`, and is taken in as soon as the processor is free for
  /// `cost`. Returns when that is done. `now`: no message that is announced from here on comes
  /// before.
  base::TimePoint take_in(base::TimePoint there, base::Duration cost, base::TimePoint now);

 private:
  struct Busy {
    base::TimePoint begin, end;
  };
  std::deque<Busy> busy_;  ///< from `now` on, in order, with gaps between them
};

}  // namespace gearshift::sim
