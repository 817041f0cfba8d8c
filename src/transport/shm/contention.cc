#include "transport/shm/contention.h"

#include <sched.h>

#include <algorithm>

namespace gearshift::transport::shm {
namespace {

/// Slices are longer than this: 1.4 ms on two processors, 2.8 on eight and more (Linux 6.12). A
/// peer's share of a collective that takes longer is worth a sleep as well.
constexpr base::Duration kLongYield = std::chrono::milliseconds(1);
/// The longest rest, in yields of the last length.
constexpr std::int64_t kMostYields = 64;
/// The longest with more ranks than processors: about a slice.
constexpr std::int64_t kMostCrowded = 4'000'000;

}  // namespace

Contention& Contention::here() {
  static Contention contention;
  return contention;
}

bool Contention::yield(const base::Scheduler& scheduler, base::TimePoint& now) {
  if (resting(now)) return false;
  ::sched_yield();
  const base::TimePoint begun = now;
  now = scheduler.now();
  yielded(begun, now);
  return true;
}

void Contention::yielded(base::TimePoint begun, base::TimePoint ended) {
  const std::int64_t took = (ended - begun).count();
  if (took < kLongYield.count()) return;
  const std::int64_t last = rest_.load(std::memory_order_relaxed);
  const std::int64_t since =
      begun.since_origin.count() - rest_ends_.load(std::memory_order_relaxed);
  std::int64_t rest = since > last ? took : std::min(2 * last, kMostYields * took);
  if (crowded_.load(std::memory_order_relaxed)) rest = std::min(took, kMostCrowded);
  rest_.store(rest, std::memory_order_relaxed);
  rest_ends_.store(ended.since_origin.count() + rest, std::memory_order_relaxed);
}

}  // namespace gearshift::transport::shm
