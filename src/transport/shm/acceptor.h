#pragma once

#include <atomic>
#include <list>
#include <map>
#include <memory>

#include "gearshift/base/log_throttle.h"
#include "gearshift/transport/transport.h"
#include "transport/shm/setup.h"

namespace gearshift::transport::shm {

/// Admits processes that connect: each handshake runs as a task of its own, with a short limit, so
/// that a stranger who says nothing delays nobody. What succeeds waits here for `take`.
///
/// Thread-safety: all methods.
class Acceptor {
 public:
  Acceptor(base::Scheduler& scheduler, Identity identity, base::Fd listener);
  ~Acceptor();

  int listener() const { return listener_.get(); }
  /// Refuses everybody from now on, and ends the handshakes that are under way.
  void stop();

  /// The listener has connections. Never waits; leaves some for the next call if there are many.
  /// False when they can be neither taken nor turned away now, or one waits for a thread: it is
  /// to be called again soon.
  bool on_ready();
  base::Result<LinkParts> take(base::Rank peer, base::TimePoint deadline);

  /// How long a caller may take to prove itself and to set up its link.
  static constexpr base::Duration kPatience = std::chrono::seconds(10);

 private:
  struct Guest {
    int socket = -1;  ///< borrowed; -1 when the task has ended
    std::unique_ptr<base::Task> task;
  };

  bool welcome(base::Fd socket);
  bool turn_one_away();
  void admit(base::Fd socket, Guest* guest);
  void forget_finished();
  /// Whether this rank has a link already, taken or waiting. Caller holds the monitor.
  bool is_known(base::Rank rank);

  base::Scheduler& scheduler_;
  const Identity identity_;
  const base::Fd listener_;
  base::Fd spare_;  ///< given up for a moment, to turn somebody away
  base::LogThrottle refusals_;
  const std::unique_ptr<base::Monitor> monitor_;
  bool closing_ = false;
  std::list<Guest> guests_;
  /// The one who came last, while there is no thread for it, and how long it may wait for one.
  base::Fd threadless_;
  base::TimePoint thread_deadline_{};
  std::map<base::Rank, LinkParts> admitted_;
  std::map<base::Rank, std::shared_ptr<std::atomic<bool>>> taken_;
};

}  // namespace gearshift::transport::shm
