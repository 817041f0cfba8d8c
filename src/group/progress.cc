#include <algorithm>
#include <mutex>

#include "gearshift/group/group.h"

namespace gearshift::group {

Progress::Progress(base::Scheduler& scheduler)
    : scheduler_(scheduler), monitor_(scheduler.make_monitor()), idle_since_(scheduler.now()) {}

void Progress::set_step(base::Step step) {
  std::lock_guard<base::Monitor> lock(*monitor_);
  step_ = step.value;
}

std::uint64_t Progress::begin(std::string operation) {
  const base::TimePoint now = scheduler_.now();
  std::lock_guard<base::Monitor> lock(*monitor_);
  running_.push_back({next_ticket_, std::move(operation), now});
  return next_ticket_++;
}

void Progress::end(std::uint64_t ticket) {
  const base::TimePoint now = scheduler_.now();
  std::lock_guard<base::Monitor> lock(*monitor_);
  const auto ended = std::find_if(running_.begin(), running_.end(),
                                  [ticket](const Running& r) { return r.ticket == ticket; });
  if (ended == running_.end()) return;
  previous_ = std::move(ended->operation);
  quick_.store(nullptr, std::memory_order_relaxed);
  running_.erase(ended);
  if (running_.empty()) idle_since_ = now;
}

Progress::Snapshot Progress::snapshot() const {
  std::lock_guard<base::Monitor> lock(*monitor_);
  const char* quick = quick_.load(std::memory_order_relaxed);
  const std::string previous = quick != nullptr ? quick : previous_;
  if (running_.empty()) return {step_, "idle", idle_since_, previous};
  return {step_, running_.back().operation, running_.back().since, previous};
}

}  // namespace gearshift::group
