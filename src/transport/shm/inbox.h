#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "gearshift/transport/matcher.h"
#include "transport/shm/frame.h"
#include "transport/shm/lending.h"
#include "transport/shm/ring.h"

namespace gearshift::transport::shm {

/// Takes messages out of a ring, straight into the memory that the matcher names.
/// Thread-safety: under one lock of the owner, except counters and `ring`'s flags.
class Inbox {
 public:
  enum class Drained {
    kNothing,  ///< the ring was empty
    kSome,     ///< bytes were taken; there may be more
    kGoodbye,  ///< the peer has closed; nothing more comes
  };

  Inbox(RingReader& ring, Matcher& matcher) : ring_(ring), matcher_(matcher) {}

  /// Called, from any task, when a mailbox's message with this ticket is over. Set once, before
  /// anything comes.
  void on_let_go(std::function<void(std::uint64_t ticket)> callback) {
    let_go_ = std::move(callback);
  }

  /// Takes up to about `budget` bytes; stops early when `stop` is set. An error means that the
  /// link must be broken.
  base::Result<Drained> drain(std::size_t budget, const std::atomic<bool>& stop);

  /// What the peer lends from now on; false when it has taken it back already.
  base::Result<bool> borrow(std::uint64_t id, std::shared_ptr<SharedRegion> region) {
    return borrowed_.add(id, std::move(region));
  }
  /// Frames that are only a number.
  using Notices = std::vector<std::pair<FrameHeader::Kind, std::uint64_t>>;
  /// What the peer said about this side's lending, and the tickets to return to it.
  Notices take_received() { return std::exchange(received_, {}); }
  Notices take_answers() { return std::exchange(answers_, {}); }

  std::uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  std::uint64_t messages() const { return messages_.load(std::memory_order_relaxed); }

 private:
  enum class Stage { kHeader, kHead, kBody, kEnded };

  /// Goes one stage on with `ready` bytes in the ring; the bytes taken, 0 to wait for more.
  base::Result<std::size_t> step(std::size_t ready, const std::atomic<bool>& stop);
  base::Status begin_frame();
  /// Head known: asks the matcher where the body goes.
  base::Status announce(const std::atomic<bool>& stop);
  /// The same for a body that is not in the ring. It is copied at once, unless it goes to a
  /// mailbox.
  base::Status announce_lent(const std::atomic<bool>& stop);
  void finish();
  void count(std::size_t size) { bytes_.fetch_add(size, std::memory_order_relaxed); }

  RingReader& ring_;
  Matcher& matcher_;
  Stage stage_ = Stage::kHeader;
  FrameHeader header_;
  std::vector<std::byte> head_;
  std::size_t done_ = 0;  ///< of the head or the body
  std::shared_ptr<Matcher::Landing> landing_;
  BorrowedRegions borrowed_;
  std::function<void(std::uint64_t)> let_go_;
  Notices received_;
  Notices answers_;
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> messages_{0};
};

}  // namespace gearshift::transport::shm
