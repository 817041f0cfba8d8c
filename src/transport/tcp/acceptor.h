#pragma once

#include <list>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "gearshift/base/log_throttle.h"
#include "transport/tcp/reactor.h"
#include "transport/tcp/setup.h"

namespace gearshift::transport::tcp {

/// Who decides about links whose sockets have proved themselves.
class LinkKeeper {
 public:
  virtual ~LinkKeeper() = default;
  /// Whether a link from `peer` would be welcome; if so, one of the two below follows.
  virtual bool reserve(base::Rank peer) = 0;
  virtual void add(base::Rank peer, std::vector<base::Fd> sockets) = 0;
  virtual void cancel(base::Rank peer) = 0;
};

/// Answers the door: takes sockets, lets each prove itself on a task of its own, and puts those of
/// one link together. Refusals are logged and concern nobody else. At most kMaxStrangers sockets
/// are unproved at any time; more wait in the system's queue, for kPatience at the longest.
///
/// Thread-safety: all methods.
class Acceptor final : public Reactor::Handler, public std::enable_shared_from_this<Acceptor> {
 public:
  Acceptor(base::Scheduler& scheduler, Identity identity, base::Fd listener,
           std::shared_ptr<Reactor> reactor, LinkKeeper& keeper);
  base::Status start();
  /// Ends all visits; afterwards `keeper` is not called any more. Must be called before the end.
  void stop();
  void on_events(std::uint32_t events) override;
  void on_alarm() override;

  /// How long a caller may take to prove itself, and to bring all sockets of its link.
  static constexpr base::Duration kPatience = std::chrono::seconds(5);

 private:
  static constexpr int kMaxStrangers = 64;
  /// How soon to look again for callers that can be neither taken nor turned away, or a thread.
  static constexpr base::Duration kRest = std::chrono::milliseconds(50);

  /// One socket from its arrival until it belongs to a link or is refused.
  struct Visit {
    base::Fd fd;
    std::string from;
    bool proved = false;
    bool done = false;
    std::unique_ptr<base::Task> task;
  };
  using LinkName = std::pair<base::Rank, std::uint64_t>;
  struct Party {
    std::vector<base::Fd> sockets;
    std::size_t present = 0;
  };

  bool turn_away();
  bool welcome(base::Fd fd);
  bool greet(std::unique_ptr<Visit> visit);
  void reap();
  void run(Visit& visit);
  base::Status examine(Visit& visit);
  base::Status join_party(Visit& visit, const Hello& hello, std::uint32_t streams,
                          base::TimePoint deadline);
  base::Status decide(base::Rank peer, std::vector<base::Fd> sockets, base::TimePoint deadline);
  base::Status refuse(const base::Fd& fd, Verdict verdict, base::TimePoint deadline);
  /// Caller holds the monitor.
  void no_longer_strange(Visit& visit);

  base::Scheduler& scheduler_;
  const Identity identity_;
  const base::Fd listener_;
  const std::shared_ptr<Reactor> reactor_;
  const Reactor::Id id_;
  LinkKeeper& keeper_;
  /// Given up for a moment when the process has no descriptors left, to turn a caller away.
  base::Fd spare_;
  base::LogThrottle refusals_;

  const std::unique_ptr<base::Monitor> monitor_;
  std::list<std::unique_ptr<Visit>> visits_;
  /// The one who came last, while there is no thread for it, and how long it may wait for one.
  std::unique_ptr<Visit> threadless_;
  base::TimePoint thread_deadline_{};
  std::map<LinkName, Party> parties_;
  int strangers_ = 0;
  bool stopping_ = false;
};

}  // namespace gearshift::transport::tcp
