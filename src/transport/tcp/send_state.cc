#include "transport/tcp/send_state.h"

#include <mutex>
#include <utility>

#include "transport/patience.h"

namespace gearshift::transport::tcp {

base::Status SendState::wait(base::TimePoint deadline) {
  if (!done()) {
    std::lock_guard<base::Monitor> lock(*shared_->monitor);
    ++shared_->waiters;
    Patience patience(shared_->scheduler.now(), deadline, shared_->traffic->moved().out);
    while (!done()) {
      if (shared_->monitor->wait_until(patience.next_look()) || done()) continue;
      const std::uint64_t moved = shared_->traffic->moved().out;
      if (!patience.is_over(shared_->scheduler.now(), moved, begun)) continue;
      shared_->monitor->unlock();
      shared_->withdraw(*this, {base::ErrorCode::kTimeout, "a send was not finished in time"});
      shared_->monitor->lock();
      patience = Patience(base::TimePoint::never());
    }
    --shared_->waiters;
  }
  return error_ ? base::Status(*error_) : base::Status();
}

void SendState::part_done(const std::optional<base::Error>& error) {
  std::function<void()> then;
  {
    std::lock_guard<base::Monitor> lock(*shared_->monitor);
    if (error && !error_) error_ = *error;
    if (--parts_ > 0) return;
    done_.store(true, std::memory_order_release);
    if (shared_->waiters > 0) shared_->monitor->notify_all();
    then.swap(then_);
  }
  if (then) then();
}

bool SendState::when_done(std::function<void()> then) {
  {
    std::lock_guard<base::Monitor> lock(*shared_->monitor);
    if (!done()) {
      then_ = std::move(then);
      return true;
    }
  }
  then();
  return true;
}

}  // namespace gearshift::transport::tcp
