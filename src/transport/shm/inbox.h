#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "gearshift/transport/matcher.h"
#include "transport/shm/frame.h"
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

  /// Takes up to about `budget` bytes; stops early when `stop` is set. An error means that the
  /// link must be broken.
  base::Result<Drained> drain(std::size_t budget, const std::atomic<bool>& stop);

  std::uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  std::uint64_t messages() const { return messages_.load(std::memory_order_relaxed); }

 private:
  enum class Stage { kHeader, kHead, kBody, kEnded };

  /// Goes one stage on with `ready` bytes in the ring; the bytes taken, 0 to wait for more.
  base::Result<std::size_t> step(std::size_t ready);
  base::Status begin_message();
  /// Head known: asks the matcher where the body goes.
  base::Status announce();
  void finish();
  void count(std::size_t size) { bytes_.fetch_add(size, std::memory_order_relaxed); }

  RingReader& ring_;
  Matcher& matcher_;
  Stage stage_ = Stage::kHeader;
  FrameHeader header_;
  std::vector<std::byte> head_;
  std::size_t done_ = 0;  ///< of the head or the body
  std::shared_ptr<Matcher::Landing> landing_;
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> messages_{0};
};

}  // namespace gearshift::transport::shm
