#include "transport/tcp/send_state.h"

#include <mutex>

namespace gearshift::transport::tcp {

base::Status SendState::wait(base::TimePoint deadline) {
  if (!done()) {
    std::lock_guard<base::Monitor> lock(*shared_->monitor);
    ++shared_->waiters;
    while (!done()) {
      if (shared_->monitor->wait_until(deadline) || done()) continue;
      shared_->monitor->unlock();
      shared_->withdraw(*this, {base::ErrorCode::kTimeout, "a send was not finished in time"});
      shared_->monitor->lock();
      deadline = base::TimePoint::never();
    }
    --shared_->waiters;
  }
  return error_ ? base::Status(*error_) : base::Status();
}

void SendState::part_done(const std::optional<base::Error>& error) {
  std::lock_guard<base::Monitor> lock(*shared_->monitor);
  if (error && !error_) error_ = *error;
  if (--parts_ > 0) return;
  done_.store(true, std::memory_order_release);
  if (shared_->waiters > 0) shared_->monitor->notify_all();
}

}  // namespace gearshift::transport::tcp
