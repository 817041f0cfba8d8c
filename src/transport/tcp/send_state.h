#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>

#include "gearshift/base/scheduler.h"
#include "gearshift/transport/connection.h"
#include "transport/tcp/traffic.h"

namespace gearshift::transport::tcp {

class SendState;

/// What the sends of one link share.
struct SendShared {
  /// Must see to it that the send completes soon: by taking back what has not begun, and breaking
  /// the link if something has.
  using Withdraw = std::function<void(SendState&, const base::Error&)>;

  SendShared(base::Scheduler& s, std::shared_ptr<const TrafficCounters> t, Withdraw w)
      : scheduler(s),
        traffic(std::move(t)),
        monitor(scheduler.make_monitor()),
        withdraw(std::move(w)) {}
  base::Scheduler& scheduler;
  const std::shared_ptr<const TrafficCounters> traffic;
  const std::unique_ptr<base::Monitor> monitor;
  const Withdraw withdraw;
  int waiters = 0;  ///< under the monitor
};

/// One posted send, in one or several parts. Complete when every part is: written, withdrawn or
/// given up. So its memory is not read any more, on whichever stream, once it is complete.
class SendState final : public RequestState {
 public:
  SendState(std::shared_ptr<SendShared> shared, std::uint64_t parts)
      : shared_(std::move(shared)), parts_(parts) {}

  base::Status wait(base::TimePoint deadline) override;
  bool done() const override { return done_.load(std::memory_order_acquire); }
  bool when_done(std::function<void()> then) override;

  /// The first error is the outcome of all.
  void part_done(const std::optional<base::Error>& error);

  /// Set when the first byte of any part leaves.
  std::atomic<bool> begun{false};

 private:
  const std::shared_ptr<SendShared> shared_;
  std::uint64_t parts_;  ///< under the monitor
  std::atomic<bool> done_{false};
  std::optional<base::Error> error_;  ///< constant once done
  std::function<void()> then_;        ///< under the monitor
};

}  // namespace gearshift::transport::tcp
