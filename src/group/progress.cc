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
  given_up_.reset();
  return next_ticket_++;
}

auto Progress::find(std::uint64_t ticket) -> std::vector<Running>::iterator {
  return std::find_if(running_.begin(), running_.end(),
                      [ticket](const Running& r) { return r.ticket == ticket; });
}

void Progress::give_up(std::uint64_t ticket) {
  std::lock_guard<base::Monitor> lock(*monitor_);
  const auto running = find(ticket);
  if (running != running_.end()) running->given_up = true;
}

void Progress::end(std::uint64_t ticket) {
  const base::TimePoint now = scheduler_.now();
  std::lock_guard<base::Monitor> lock(*monitor_);
  const auto ended = find(ticket);
  if (ended == running_.end()) return;
  if (ended->given_up) {
    given_up_ = std::move(*ended);
  } else {
    previous_ = std::move(ended->operation);
    quick_.store(nullptr, std::memory_order_relaxed);
  }
  running_.erase(ended);
  if (running_.empty()) idle_since_ = now;
}

Progress::Snapshot Progress::snapshot() const {
  std::lock_guard<base::Monitor> lock(*monitor_);
  const char* quick = quick_.load(std::memory_order_relaxed);
  const std::string previous = quick != nullptr ? quick : previous_;
  if (running_.empty() && !given_up_) return {step_, "idle", idle_since_, previous};
  const Running& shown = running_.empty() ? *given_up_ : running_.back();
  return {step_, shown.operation, shown.since, previous};
}

}  // namespace gearshift::group
