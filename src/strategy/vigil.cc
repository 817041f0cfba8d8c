#include "strategy/vigil.h"

#include <cstdint>
#include <mutex>
#include <string>

#include "gearshift/base/threads.h"

namespace gearshift::strategy {
namespace {

std::int64_t steps_of_all(const membership::Monitor& monitor) {
  std::int64_t sum = 0;
  for (const membership::PeerReport& peer : monitor.report()) sum += peer.step;
  return sum;
}

}  // namespace

Vigil::Vigil(base::Scheduler& scheduler, membership::Monitor& monitor, base::Duration timeout)
    : scheduler_(scheduler),
      watched_(monitor),
      timeout_(timeout),
      monitor_(scheduler.make_monitor()),
      task_(base::spawn_patiently(scheduler, "vigil", [this] { watch(); })) {}

Vigil::~Vigil() {
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    over_ = true;
    monitor_->notify_all();
  }
  task_->join();
}

void Vigil::watch() {
  std::int64_t seen = steps_of_all(watched_);
  base::TimePoint since = scheduler_.now();
  while (true) {
    {
      std::lock_guard<base::Monitor> lock(*monitor_);
      const base::TimePoint next = scheduler_.after(timeout_);
      while (!over_ && monitor_->wait_until(next)) {
      }
      if (over_) return;
    }
    const std::int64_t now = steps_of_all(watched_);
    if (now != seen) {
      seen = now;
      since = scheduler_.now();
    } else if (scheduler_.now() - since >= kPatientTimeouts * timeout_) {
      const double seconds = base::to_seconds(scheduler_.now() - since);
      watched_.fail({base::ErrorCode::kTimeout,
                     "this rank waits for the others, and none has made a step for " +
                         std::to_string(static_cast<std::int64_t>(seconds)) + " s"});
      return;
    }
  }
}

}  // namespace gearshift::strategy
