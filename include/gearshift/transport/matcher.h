#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "gearshift/transport/connection.h"
#include "gearshift/transport/router.h"

namespace gearshift::transport {

/// Payload that has crossed a link: bytes, out of this process and into it.
struct Movement {
  std::uint64_t out = 0;
  std::uint64_t in = 0;
};

/// Reads a link for a task that waits on it. What the task waits for then wakes that task alone,
/// instead of another one that has to wake it.
///
/// Thread-safety: all methods.
class Puller {
 public:
  virtual ~Puller() = default;
  /// Reads until `done`, the end of the link, or `until`, and passes on all that comes. False:
  /// another task reads already, or will, so that the caller may sleep. `bytes`: of the message
  /// that it waits for.
  virtual bool pull(std::size_t bytes, const std::function<bool()>& done,
                    base::TimePoint until) = 0;
  /// Somebody sleeps: has another task read, unless one pulls.
  virtual void stop_pulling() = 0;
};

/// Pairs arriving messages with posted receives for one connection; the part of a Connection that
/// is the same for every transport. A transport calls `arrive` when a message's header is known,
/// fills `landing->into`, then `complete`. Messages and receives of equal tag match in order.
///
/// Thread-safety: all methods.
class Matcher {
 public:
  /// Where an arriving message's body goes. Owned jointly by the transport and the matcher until
  /// completed. `into` may be written without a lock until `complete` or `fail` is called.
  struct Landing {
    Tag tag;
    base::Bytes into;
    std::vector<std::byte> head;
    base::Buffer own;                       ///< memory when nothing was posted
    std::shared_ptr<RequestState> request;  ///< the receive it satisfies, if any
    std::shared_ptr<void> handle;           ///< private to the matcher
  };

  Matcher(Router& router, base::Rank peer);
  ~Matcher();

  /// Connection::recv. When a message is under way and the wait times out, `on_stuck` (below)
  /// must stop the transport from writing into the buffer.
  Request post(Tag tag, base::Bytes into);

  /// A message with this tag, head and body size begins to arrive. If its size or its check
  /// differs from that of the posted receive, the receive fails (kMismatch), and what comes is
  /// dropped. An error means
  /// that the connection must be aborted.
  base::Result<std::shared_ptr<Landing>> arrive(Tag tag, base::ConstBytes head,
                                                std::uint64_t body_bytes, bool phantom = false);
  /// The body is in place: wakes the receiver, or delivers to the mailbox, or keeps it.
  void complete(const std::shared_ptr<Landing>& landing);

  /// `arrive` and `complete` at once, for a message whose body is in memory already (or a phantom)
  /// and is copied here.
  base::Status arrive_whole(Tag tag, base::ConstBytes head, base::ConstBytes body);

  /// The same for a message to a mailbox, whose body is not copied.
  base::Status deliver(Tag tag, base::ConstBytes head, base::Buffer body);

  /// Fails everything posted now and later with `reason`. Idempotent. Messages that had arrived
  /// whole are still matched.
  void fail(const base::Error& reason);

  /// Called, without locks held, when a receive gives up while its message is half way in. It must
  /// abort the connection and return only when no more bytes are written to any landing. Capture
  /// the connection weakly: receives can outlive it.
  void on_stuck(std::function<void(base::Error)> abort_and_quiesce);

  /// Has receives wait beyond their deadline while payload moves. `moved` is called by who waits,
  /// now and then, with locks held: it may only read counters. Without it, deadlines stand.
  void follow(std::function<Movement()> moved);

  /// Has those that wait read by themselves. Set before the first message.
  void pull_by(std::weak_ptr<Puller> puller);

  /// Asks the processor for what the next call will look at.
  void prefetch() const {
    const auto* first = reinterpret_cast<const char*>(impl_.get());
    constexpr int kLines = 4, kLine = 64;
    for (int line = 0; line < kLines; ++line) __builtin_prefetch(first + line * kLine);
  }

  struct Impl;  ///< private to matcher.cc

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace gearshift::transport
