#pragma once

#include <atomic>
#include <cstdint>

#include "gearshift/base/scheduler.h"

namespace gearshift::transport::shm {

/// Whether this process competes with other programs for the processors. Where it does, a core
/// that is given away comes back when the other's time slice is over, some milliseconds later,
/// though the peer that is waited for may have come long before; who sleeps is woken at once.
///
/// It is found out by how long yields take. A peer of ours that needs the core gives it back when
/// it has done its share of a collective. After a long yield the process yields no more for a rest,
/// which is twice as long each time when the first yields after it are long again. So programs that
/// compute all the time cost one slice of 64, and those that disturb us once cost two slices. Where
/// ranks are more than processors, though, long yields are mostly peers that compute, between two
/// collectives; sleeping would make the next ones slower, so rests last for a slice only.
///
/// Thread-safety: all of it; what threads write at the same moment may count for one of them only.
class Contention {
 public:
  /// That of this process.
  static Contention& here();

  /// Gives the core away and true, unless `now` is in a rest. Sets `now` to the time afterwards.
  bool yield(const base::Scheduler& scheduler, base::TimePoint& now);

  /// From now on: there are more ranks here than processors.
  void crowd() { crowded_.store(true, std::memory_order_relaxed); }

  /// Whether waiters should sleep, rather than yield.
  bool resting(base::TimePoint now) const {
    return now.since_origin.count() < rest_ends_.load(std::memory_order_relaxed);
  }
  /// The core was given away at `begun`, and was back at `ended`.
  void yielded(base::TimePoint begun, base::TimePoint ended);

 private:
  std::atomic<std::int64_t> rest_ends_{0};  ///< nanoseconds of the scheduler's clock
  std::atomic<std::int64_t> rest_{0};       ///< how long the last one was
  std::atomic<bool> crowded_{false};
};

}  // namespace gearshift::transport::shm
