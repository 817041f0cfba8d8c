#pragma once

#include <memory>
#include <vector>

#include "transport/tcp/frame.h"
#include "transport/tcp/socket.h"
#include "transport/tcp/traffic.h"

namespace gearshift::transport::tcp {

/// Takes the frames that an Inflow reads.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  /// The head of a frame is known. Returns where its part of the body goes.
  virtual base::Result<base::Bytes> begin(std::size_t stream, const Frame& frame,
                                          std::vector<std::byte> head) = 0;
  /// The part is in place.
  virtual void end(std::size_t stream, const Frame& frame) = 0;
};

/// The receiving half of one socket: turns bytes into frames, reading bodies straight into place.
///
///   kFrame --header read--> kHead --head read--> kBody --part read--> kFrame
///   kFrame --good-bye read--> kOver
///
/// Thread-safety: none; its link calls it from one task at a time.
class Inflow {
 public:
  Inflow(std::size_t stream, const base::Fd& fd, FrameSink& sink, TrafficCounters& traffic)
      : stream_(stream), fd_(fd), sink_(sink), traffic_(traffic), buffer_(kBufferBytes) {}

  /// Reads what is there, up to a bound, so that one stream does not hold up the others. Errors:
  /// kProtocol, or kPeerLost when the stream ends, in whatever way, without a good-bye.
  base::Status read();
  /// Bytes that the last `read` got; whether it left nothing behind.
  std::uint64_t taken() const { return taken_; }
  bool drained() const { return drained_; }
  /// What the part of a body under way still lacks, if it is one of at least `least` bytes.
  std::uint64_t missing(std::uint64_t least) const {
    return state_ == State::kBody && frame_.part_bytes() >= least ? rest_.size() : 0;
  }
  /// The peer has said that nothing more comes.
  bool over() const { return state_ == State::kOver; }
  /// The peer's socket is gone, too.
  bool ended() const { return ended_; }

 private:
  static constexpr std::size_t kBufferBytes = 64U << 10;
  static constexpr std::size_t kHeaderRoom = 1U << 10;
  static constexpr std::uint64_t kLargePart = 32U << 10;
  static constexpr std::uint64_t kTurnBytes = 4U << 20;
  enum class State { kFrame, kHead, kBody, kOver };

  base::Status consume();
  base::Status begin_frame();
  base::Status begin_body();
  void end_frame();
  base::Status end_of_stream(int error);
  std::size_t buffered() const { return end_ - begin_; }
  /// What may be read beyond the part under way. All of the buffer while messages are small; after
  /// a large one little more than the next header, since what follows it would have to be copied.
  std::size_t room() const {
    return std::min(frame_.part_bytes() >= kLargePart ? kHeaderRoom : kBufferBytes,
                    buffer_.size() - end_);
  }

  const std::size_t stream_;
  const base::Fd& fd_;
  FrameSink& sink_;
  TrafficCounters& traffic_;

  State state_ = State::kFrame;
  Frame frame_;
  std::vector<std::byte> head_;
  base::Bytes rest_;  ///< what kHead or kBody still has to fill
  /// Read, not yet used: buffer_[begin_, end_).
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  bool ended_ = false;
  std::uint64_t taken_ = 0;
  bool drained_ = false;
};

}  // namespace gearshift::transport::tcp
