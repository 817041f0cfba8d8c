#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "gearshift/base/bytes.h"

namespace gearshift::transport::shm {

/// The part of a ring that both processes write; lives in shared memory, all zero at first.
///
/// One cache line per writer, so that the two sides bounce a line only when one has news. The
/// flags and counters use sequentially consistent order where a sleeper must not be missed: one
/// side writes its counter, then reads the flag; the other writes the flag, then reads the counter.
struct RingControl {
  alignas(64) std::atomic<std::uint64_t> produced;  ///< bytes ever put; written by the producer
  std::atomic<std::uint32_t> producer_waits;        ///< the producer sleeps until there is space
  alignas(64) std::atomic<std::uint64_t> consumed;  ///< bytes ever taken; by the consumer
  std::atomic<std::uint32_t> consumer_sleeps;       ///< the consumer sleeps until there are bytes
};
static_assert(sizeof(RingControl) == 128);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// The writing end of a byte ring between two processes.
///
/// The peer's counter is only believed within what is possible; the own position is kept in
/// private memory. Thread-safety: `put` and `publish` under one lock of the owner; `space` and the
/// flags from anywhere.
class RingWriter {
 public:
  /// `capacity` is a power of two; `data` has so many bytes.
  RingWriter(RingControl* control, std::byte* data, std::size_t capacity)
      : control_(control), data_(data), capacity_(capacity) {}

  std::size_t capacity() const { return capacity_; }
  /// Bytes that fit now; nothing when the peer's counter is impossible.
  std::optional<std::size_t> space() const;
  /// Copies bytes in; they must fit. Invisible to the reader until `publish`.
  void put(base::ConstBytes bytes);
  void publish();

  /// Takes the reader's wish to be woken; the caller then rings its bell.
  bool take_sleeper() {
    return control_->consumer_sleeps.load() != 0 && control_->consumer_sleeps.exchange(0) != 0;
  }
  void announce_wait() { control_->producer_waits.store(1); }

 private:
  RingControl* control_;
  std::byte* data_;
  std::size_t capacity_;
  std::uint64_t staged_ = 0;
  std::atomic<std::uint64_t> published_{0};
};

/// The reading end. Thread-safety: `take` and `release` under one lock of the owner; `readable`
/// and the flags from anywhere.
class RingReader {
 public:
  RingReader(RingControl* control, const std::byte* data, std::size_t capacity)
      : control_(control), data_(data), capacity_(capacity) {}

  std::size_t capacity() const { return capacity_; }
  /// Bytes that can be taken now; nothing when the peer's counter is impossible.
  std::optional<std::size_t> readable() const;
  /// Copies the next bytes out; so many must be readable.
  void take(base::Bytes into);
  /// Gives the space of what was taken back to the writer.
  void release();

  bool take_waiter() {
    return control_->producer_waits.load() != 0 && control_->producer_waits.exchange(0) != 0;
  }
  void announce_sleep(bool sleeps) { control_->consumer_sleeps.store(sleeps ? 1 : 0); }

 private:
  RingControl* control_;
  const std::byte* data_;
  std::size_t capacity_;
  std::atomic<std::uint64_t> taken_{0};
};

}  // namespace gearshift::transport::shm
