#include "gearshift/transport/router.h"

#include <mutex>

namespace gearshift::transport {

Router::Router(base::Scheduler& scheduler)
    : scheduler_(scheduler), monitor_(scheduler.make_monitor()) {}

std::shared_ptr<Mailbox> Router::mailbox(std::uint16_t service) {
  std::lock_guard<base::Monitor> lock(*monitor_);
  std::shared_ptr<Mailbox>& box = mailboxes_[service];
  if (!box) box = std::make_shared<Mailbox>(scheduler_);
  return box;
}

void Router::forget(std::uint16_t service) {
  std::lock_guard<base::Monitor> lock(*monitor_);
  mailboxes_.erase(service);
}

void Router::deliver(Message message) { mailbox(message.tag.channel())->push(std::move(message)); }

void Router::on_lost(LossListener listener) {
  std::vector<std::pair<base::Rank, base::Error>> replay;
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    listener_ = listener;
    // The former listener may be about to be destroyed by its owner: let its calls end first.
    while (calls_ > 0) monitor_->wait_until(base::TimePoint::never());
    if (listener) replay.swap(early_losses_);
  }
  for (const auto& [peer, error] : replay) listener(peer, error);
}

void Router::report_lost(base::Rank peer, const base::Error& error) {
  LossListener listener;
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (!listener_) {
      early_losses_.emplace_back(peer, error);
      return;
    }
    listener = listener_;
    ++calls_;
  }
  listener(peer, error);
  std::lock_guard<base::Monitor> lock(*monitor_);
  --calls_;
  monitor_->notify_all();
}

}  // namespace gearshift::transport
