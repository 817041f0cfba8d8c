#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "gearshift/base/channel.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/transport/message.h"

namespace gearshift::transport {

using Mailbox = base::Channel<Message>;

/// Where all connections of one process deliver what is not awaited by tag: service messages and
/// news of lost peers. Thread-safety: all methods.
class Router {
 public:
  explicit Router(base::Scheduler& scheduler);

  /// The mailbox of a service channel, made at first use. Messages that came before are in it.
  std::shared_ptr<Mailbox> mailbox(std::uint16_t service);
  void deliver(Message message);
  /// Drops a service's mailbox, so that the channel can be used anew. Holders of the old one keep
  /// it, but get nothing more.
  void forget(std::uint16_t service);

  /// Called by connections, once each, when they break without a good-bye. The listener runs on
  /// the transports' tasks, and so may run in several at once: it must not block. Losses from
  /// before `on_lost` are replayed to it, by the caller of that.
  /// When `on_lost` returns, the former listener is not running and is never called again; so a
  /// listener must not call `on_lost`. An empty listener stops the calls; losses are kept again.
  using LossListener = std::function<void(base::Rank, const base::Error&)>;
  void on_lost(LossListener listener);
  void report_lost(base::Rank peer, const base::Error& error);

  base::Scheduler& scheduler() { return scheduler_; }

 private:
  base::Scheduler& scheduler_;
  std::unique_ptr<base::Monitor> monitor_;
  std::map<std::uint16_t, std::shared_ptr<Mailbox>> mailboxes_;
  LossListener listener_;
  int calls_ = 0;  ///< calls of the listener under way
  std::vector<std::pair<base::Rank, base::Error>> early_losses_;
};

}  // namespace gearshift::transport
