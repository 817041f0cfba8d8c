#pragma once

#include <cstdint>

#include "gearshift/base/scheduler.h"

namespace gearshift::transport::tcp {

/// How fast data come to this process, in all streams together: the fastest 10 ms of late.
///
/// Thread-safety: none; one for all streams of a reactor.
class ReadMeter {
 public:
  void add(std::uint64_t bytes, base::TimePoint now);
  /// Bytes per second.
  double peak() const { return peak_; }

 private:
  double peak_ = 0;
  base::TimePoint since_;
  std::uint64_t bytes_ = 0;  ///< since then
};

/// When to read a stream again that is in the middle of something long.
///
/// Who reads as soon as a packet is there is woken for every other packet, and his kernel
/// acknowledges as often: with packets of 1500 bytes, acknowledgements take 2 % of a link that is
/// busy both ways. Data that nobody has read yet are not acknowledged, up to a limit. So on slow
/// links, once it is known how fast a stream is, it is left alone until as much as pays has
/// gathered, or the end is near. On fast ones the kernel sees to that: packets come many at a time.
///
/// Thread-safety: none.
class ReadPace {
 public:
  /// Parts of frames below this size are read as they come.
  static constexpr std::uint64_t kLongPart = 128U << 10;

  explicit ReadPace(ReadMeter& meter) : meter_(meter) {}

  /// After a read: it got so many bytes, and so many are missing until the long part under way is
  /// complete; 0: none is, or the socket is not empty. Returns how long to leave the socket alone;
  /// zero: until it is readable.
  base::Duration after_read(std::uint64_t got, std::uint64_t missing, base::TimePoint now);

 private:
  void note(std::uint64_t got, base::TimePoint now);

  ReadMeter& meter_;
  double rate_ = 0;             ///< bytes per second; 0: not yet known
  bool running_ = false;        ///< data have come without a break since
  base::TimePoint since_;       ///< then,
  std::uint64_t gathered_ = 0;  ///< so many bytes
};

}  // namespace gearshift::transport::tcp
