#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "gearshift/transport/connection.h"
#include "gearshift/transport/matcher.h"
#include "gearshift/transport/router.h"
#include "gearshift/transport/shared_region.h"
#include "transport/shm/control.h"
#include "transport/shm/inbox.h"
#include "transport/shm/lending.h"
#include "transport/shm/outbox.h"
#include "transport/shm/ring.h"

namespace gearshift::transport::shm {

/// Bytes of the region that carries both rings of a link.
std::size_t link_region_bytes(std::size_t ring_bytes);

/// A send that waits for space in the ring, or for what it lent to be returned.
class QueuedSend final : public RequestState {
 public:
  QueuedSend(std::shared_ptr<class Link> link, std::shared_ptr<SendProgress> progress)
      : link_(std::move(link)), progress_(std::move(progress)) {}
  base::Status wait(base::TimePoint deadline) override;
  bool done() const override { return progress_->done.load(std::memory_order_acquire); }

 private:
  const std::shared_ptr<Link> link_;
  const std::shared_ptr<SendProgress> progress_;
};

/// What a link is made of, once both sides have proved who they are.
struct LinkParts {
  base::Rank peer;
  base::Fd socket;
  std::unique_ptr<SharedRegion> region;
  std::size_t ring_bytes = 0;  ///< a power of two
  bool creator = false;        ///< made the region: writes the first ring, reads the second
  std::size_t least_lent_bytes = 0;
  /// Set to false when the link breaks; may be empty.
  std::shared_ptr<std::atomic<bool>> alive;
};

/// One link between two processes: a ring in each direction and a socket for what is rare.
///
/// Nobody's thread is needed while somebody waits: a waiting task moves bytes itself (*polls*).
/// Only when no task polls does the engine's thread sleep on the link's socket, and the peer rings
/// a bell there. Order of locks: `receive_` or `send_` first, then the matcher's or `state_`.
/// Thread-safety: all methods.
class Link : public std::enable_shared_from_this<Link> {
 public:
  /// `wake` makes the engine look at its links; it may be called with locks held.
  Link(std::shared_ptr<Router> router, std::function<void()> wake, LinkParts parts);
  /// Not in the constructor: a weak pointer to this exists only afterwards. Before the first poll.
  void begin();

  base::Rank peer() const { return peer_; }
  int socket() const { return socket_.get(); }
  Traffic traffic() const;

  Request send(Tag tag, base::ConstBytes head, base::ConstBytes body) {
    return post(tag, head, body, false);
  }
  Request send_lent(Tag tag, base::ConstBytes head, base::ConstBytes body) {
    return post(tag, head, body, true);
  }
  Request recv(Tag tag, base::Bytes into);
  base::Status offer_region(std::uint64_t id, const SharedRegion& region);
  base::Result<std::unique_ptr<SharedRegion>> accept_region(std::uint64_t id,
                                                            base::TimePoint deadline);
  base::Result<std::unique_ptr<LentRegion>> lend(const SharedRegion& region);
  /// No body in the region is lent any more.
  void reclaim(std::uint64_t region);
  void abort(const base::Error& reason);
  void close(base::TimePoint deadline);

  /// Moves bytes until `done` answers true, the patience of a poller ends, or the deadline.
  template <typename Done>
  void assist(const Done& done, base::TimePoint deadline);
  base::Status wait_sent(const std::shared_ptr<SendProgress>& progress, base::TimePoint deadline);

  /// Moves what can be moved now, in both directions; whether anything did.
  bool poll();
  void begin_polling();
  /// When the last poller leaves, the peer is asked to ring its bell from now on.
  void end_polling();
  bool others_poll() const { return pollers_.load(std::memory_order_relaxed) > 1; }
  /// The engine must poll: a poller left while there was work.
  bool take_kick() { return kicked_.exchange(false); }

  /// Reads what came over the socket. By the engine's thread.
  void on_socket();
  /// Sends the records that the socket had no room for; true when some still wait.
  bool flush_control();
  bool broken() const { return broken_.load(std::memory_order_acquire); }
  /// The loss to report, once. By the engine's thread.
  std::optional<base::Error> take_loss();

 private:
  enum class Loss { kReport, kSilent };

  /// Ends the link with its first reason. When it returns, no byte moves any more.
  void break_link(const base::Error& error, Loss loss);
  /// Breaks it because of what the peer did or failed to do, and tells it so.
  void give_up(const base::Error& error);
  bool poll_inbox();
  bool poll_outbox();
  /// Asks for a bell when there is space, or for the engine when there already is.
  void arm_outbox();
  void kick();
  void ring_bell();
  void notify_waiters();
  void on_record(Received received);
  void keep_region(Received received);
  void on_end();
  /// Sends an offered or a lent region over the socket, now or when there is room.
  base::Status send_region(ControlRecord::Kind kind, std::uint64_t id, const SharedRegion& region);
  void borrow_region(Received received);
  /// Takes from the inbox; `lock`, on `receive_`, is given up before what came is answered.
  base::Result<Inbox::Drained> drain(std::size_t budget, std::unique_lock<std::mutex>& lock);
  void on_notices(const Inbox::Notices& received, const Inbox::Notices& answers);
  void say(FrameHeader::Kind kind, std::uint64_t number);
  /// A frame was added to the outbox, and sends that somebody may wait for ended by the way.
  void after_adding(bool finished);
  Request post(Tag tag, base::ConstBytes head, base::ConstBytes body, bool may_lend);
  base::Status check_send(Tag tag, base::ConstBytes head, base::ConstBytes body) const;
  /// Takes all that is in the ring; how the last look ended.
  base::Result<Inbox::Drained> drain_rest();
  void say_abort(const base::Error& reason);
  base::Error reason() const;
  base::Error about_peer(base::ErrorCode code, const std::string& what) const;
  base::Error closed_here() const;

  const std::shared_ptr<Router> router_;
  const std::function<void()> wake_;
  const base::Rank peer_;
  const base::Fd socket_;
  const std::unique_ptr<SharedRegion> region_;  ///< both rings
  const std::shared_ptr<std::atomic<bool>> alive_;
  RingReader reader_;
  RingWriter writer_;
  Matcher matcher_;

  std::mutex receive_;
  Inbox inbox_;  ///< under receive_
  std::mutex send_;
  Outbox outbox_;     ///< under send_
  LentRegions lent_;  ///< under send_

  std::atomic<int> pollers_{0};
  std::atomic<bool> kicked_{false};
  std::atomic<bool> broken_{false};
  std::atomic<bool> closing_{false};  ///< a good-bye is on its way, and nothing comes after it

  /// Guards what follows and wakes those who wait for sends and regions.
  const std::unique_ptr<base::Monitor> state_;
  std::optional<base::Error> reason_;
  std::optional<base::Error> loss_;
  std::string last_words_;  ///< why the peer broke the link
  std::map<std::uint64_t, std::unique_ptr<SharedRegion>> regions_;
  std::deque<std::pair<ControlRecord, base::Fd>> control_queue_;
};

}  // namespace gearshift::transport::shm
