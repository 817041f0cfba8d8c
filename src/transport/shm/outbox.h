#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gearshift/transport/connection.h"
#include "transport/shm/frame.h"
#include "transport/shm/ring.h"

namespace gearshift::transport::shm {

/// How far a send has come. Set under the outbox's lock, read from anywhere.
struct SendProgress {
  std::atomic<bool> done{false};
  std::optional<base::Error> error;  ///< written before `done`, constant after
};

/// Messages on their way into a ring: what does not fit at once waits here.
/// Thread-safety: under one lock of the owner, except `pending` and the counters.
class Outbox {
 public:
  explicit Outbox(RingWriter& ring) : ring_(ring) {}

  /// Appends a message and copies what fits. The progress is null when all of it did; the body
  /// must live until then.
  std::shared_ptr<SendProgress> add(Tag tag, base::ConstBytes head, base::ConstBytes body);
  std::shared_ptr<SendProgress> add_goodbye();
  /// Appends a message whose body stays where it is until `returned` is called with the ticket that
  /// this gives it.
  std::shared_ptr<SendProgress> add_lent(Tag tag, base::ConstBytes head, std::size_t body_bytes,
                                         LentBody place);
  void returned(std::uint64_t ticket);
  /// Appends a frame of this kind that is only a number.
  void add_notice(FrameHeader::Kind kind, std::uint64_t number);
  /// Copies up to `budget` bytes of what waits; whether any was.
  bool push(std::size_t budget);

  enum class Withdrawn { kDone, kRemoved, kHalfSent };
  /// Takes a message back. One that is half in the ring stays: only breaking the link ends it. Of
  /// one that is lent nobody is told any more when it is returned.
  Withdrawn withdraw(const std::shared_ptr<SendProgress>& progress);
  void fail(const base::Error& error);
  /// Whether sends that somebody may wait for have ended since the last call; whoever moves bytes,
  /// for itself or for others, has to wake those who wait.
  bool take_finished() { return std::exchange(finished_, false); }

  /// Whether messages wait for space.
  bool pending() const { return pending_.load(); }
  /// The peer's position in the ring was impossible; the owner must break the link.
  bool corrupt() const { return corrupt_; }
  std::uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  std::uint64_t messages() const { return messages_.load(std::memory_order_relaxed); }

 private:
  struct Message {
    std::vector<std::byte> prefix;  ///< header and head
    base::ConstBytes body;
    std::size_t done = 0;
    std::shared_ptr<SendProgress> progress;  ///< null: nobody waits
  };

  void enqueue(const FrameHeader& header, base::ConstBytes head, base::ConstBytes body,
               std::shared_ptr<SendProgress> progress);
  bool put_at_once(const FrameHeader& header, base::ConstBytes head, base::ConstBytes body);
  std::size_t space();
  /// Copies at most `limit` bytes of one message.
  std::size_t copy_some(Message& message, std::size_t limit);
  void finish(SendProgress& progress, std::optional<base::Error> error);

  RingWriter& ring_;
  std::deque<Message> queue_;
  std::map<std::uint64_t, std::shared_ptr<SendProgress>> lent_;  ///< by ticket
  std::uint64_t last_ticket_ = 0;
  bool corrupt_ = false;
  bool finished_ = false;
  std::atomic<bool> pending_{false};
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> messages_{0};
};

}  // namespace gearshift::transport::shm
