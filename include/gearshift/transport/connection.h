#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "gearshift/base/bytes.h"
#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/transport/message.h"

namespace gearshift::transport {

/// The shared state of one posted send or receive. Implementations complete it once.
class RequestState {
 public:
  virtual ~RequestState() = default;
  /// Waits for completion. At the deadline the operation is withdrawn: when this returns, with or
  /// without success, the transport does not touch the caller's memory again (if half a message
  /// was under way, the connection is closed to make that true). Where data may take long (tcp), a
  /// deadline in the future is put off while they move.
  virtual base::Status wait(base::TimePoint deadline) = 0;
  virtual bool done() const = 0;
  /// Calls `then` once when the operation has completed, in whatever way: at once if it has, or
  /// from a task of the transport, which it must not hold up. For one caller. False: this kind of
  /// operation cannot tell, and `then` is never called.
  virtual bool when_done(std::function<void()> then) {
    (void)then;
    return false;
  }
};

/// Handle of a posted operation. Copyable; copies share the state. An empty handle is complete.
/// The memory given to the operation must live until `wait` has returned.
class Request {
 public:
  Request() = default;
  explicit Request(std::shared_ptr<RequestState> state) : state_(std::move(state)) {}
  base::Status wait(base::TimePoint deadline) const {
    return state_ ? state_->wait(deadline) : base::Status();
  }
  bool done() const { return !state_ || state_->done(); }
  /// See RequestState.
  bool when_done(std::function<void()> then) const {
    if (state_) return state_->when_done(std::move(then));
    then();
    return true;
  }

 private:
  std::shared_ptr<RequestState> state_;
};

/// Answers that choose algorithms, so that selection is data and not a list of names.
struct Capabilities {
  std::string transport;        ///< "tcp", "shm", "inproc", "sim"
  bool same_host = false;       ///< peer runs on this host
  bool shared_regions = false;  ///< offer_region / accept_region work
};

/// What has crossed a connection since it was made. Payload and framing, in bytes.
struct Traffic {
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t messages_sent = 0;
  std::uint64_t messages_received = 0;
};

class SharedRegion;

/// Handle of memory that a peer may read, see Connection::lend. To be dropped before the memory,
/// and when all that was sent of it has completed or failed.
class LentRegion {
 public:
  virtual ~LentRegion() = default;
};

/// How many bytes may be under way at once between two ranks, about; 0: as many as the transport
/// thinks right, as in the beginning.
struct FlowLimit {
  std::size_t out = 0;  ///< sent by this end, and not yet acknowledged
  std::size_t in = 0;   ///< the same of the peer, which limits it
};

/// A reliable link between this rank and one other.
///
/// Messages match by tag (see message.h). Messages that arrive before their receive is posted are
/// kept. Thread-safety: all methods, from any task; posting never waits for the peer.
class Connection {
 public:
  virtual ~Connection() = default;

  /// Sends head and body as one message. Both may be phantoms. Completes when the memory may be
  /// reused; completion does not mean that the peer has received. `head` is copied at once.
  virtual Request send(Tag tag, base::ConstBytes head, base::ConstBytes body) = 0;
  Request send(Tag tag, base::ConstBytes body) { return send(tag, {}, body); }

  /// Receives the body of the message with this tag straight into `into`. The sizes must be equal,
  /// and the tags' checks: otherwise this receive fails (kMismatch), and the message is dropped.
  /// Not for service tags.
  virtual Request recv(Tag tag, base::Bytes into) = 0;

  /// As `send`, but the peer may read the body where it is, instead of a copy of it: one within a
  /// region that is lent, any where the peer is this process. Completes when the body was received
  /// into a posted receive, or when the reader of the mailbox has let go of it; until then it must
  /// not change. Nothing but this completion is different for the peer. Where nothing can be read
  /// in place this is `send`. After a wait that failed the peer may still read the memory.
  virtual Request send_lent(Tag tag, base::ConstBytes head, base::ConstBytes body);

  /// Limits what is under way at once: the rest waits at the sender, and not in the buffers of
  /// switches, which drop what they have no room for. Both ends say the same. Each call with a
  /// limit is to be followed by one without, the last of which ends it. Without effect where
  /// nothing lies between the two. Takes effect soon. From any task.
  virtual void limit_flow(const FlowLimit& limit);

  virtual base::Rank peer() const = 0;
  virtual Capabilities capabilities() const = 0;
  virtual Traffic traffic() const = 0;

  /// Hands the peer a region of this process's shared memory under `id`; the peer maps it with
  /// `accept_region`. kUnsupported unless capabilities().shared_regions.
  virtual base::Status offer_region(std::uint64_t id, const SharedRegion& region);
  virtual base::Result<std::unique_ptr<SharedRegion>> accept_region(std::uint64_t id,
                                                                    base::TimePoint deadline);

  /// Lets the peer read this region, so that `send_lent` need not copy what lies in it. Does not
  /// wait: until the peer is ready, and where it can't be, bodies are copied. kUnsupported unless
  /// capabilities().shared_regions.
  virtual base::Result<std::unique_ptr<LentRegion>> lend(const SharedRegion& region);

  /// Breaks the link: everything posted, here and at the peer, fails; later calls fail with
  /// `reason` here. Idempotent.
  virtual void abort(base::Error reason) = 0;
  /// Says good-bye: what was sent still arrives, then the peer sees an orderly end (kClosed) and
  /// does not report a loss. Waits until the last byte has left (tcp: until the peer has read it,
  /// which a frozen one does not) or `deadline`.
  virtual void close(base::TimePoint deadline) = 0;
};

}  // namespace gearshift::transport
