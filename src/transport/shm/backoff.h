#pragma once

#include "gearshift/base/scheduler.h"
#include "transport/shm/contention.h"

namespace gearshift::transport::shm {

/// Tells the processor that this is a waiting loop.
inline void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// How to wait for another process: spin for about two microseconds (the answer of a peer that
/// runs on another core takes less), then give the core away (ranks are often more than cores,
/// and the one waited for may need this very core) unless other programs take it for long, then say
/// that it is time to sleep.
class Backoff {
 public:
  Backoff(const base::Scheduler& scheduler, base::Duration yield_for,
          Contention& contention = Contention::here())
      : scheduler_(scheduler), yield_for_(yield_for), contention_(contention) {}

  /// Waits a moment. False when the budget is used up and the caller should sleep.
  bool pause() {
    if (turns_ < kSpins) {
      ++turns_;
      cpu_relax();
      return true;
    }
    base::TimePoint now = scheduler_.now();
    if (turns_ == kSpins) {
      ++turns_;
      give_up_ = now + yield_for_;
    }
    return now < give_up_ && contention_.yield(scheduler_, now);
  }
  /// True while only spinning: too early to look at the clock.
  bool spinning() const { return turns_ < kSpins; }
  void reset() { turns_ = 0; }

 private:
  static constexpr int kSpins = 64;

  const base::Scheduler& scheduler_;
  base::Duration yield_for_;
  Contention& contention_;
  int turns_ = 0;
  base::TimePoint give_up_;
};

}  // namespace gearshift::transport::shm
