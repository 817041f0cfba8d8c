#pragma once

#include <map>
#include <memory>
#include <vector>

#include "gearshift/transport/matcher.h"
#include "transport/tcp/inflow.h"

namespace gearshift::transport::tcp {

/// Puts the frames of all streams of one link together to messages.
///
/// Thread-safety: none; its link calls it from one task at a time.
class Arrivals final : public FrameSink {
 public:
  Arrivals(Matcher& matcher, TrafficCounters& traffic) : matcher_(matcher), traffic_(traffic) {}

  void expect_streams(std::size_t count) { whole_.resize(count); }
  base::Result<base::Bytes> begin(std::size_t stream, const Frame& frame,
                                  std::vector<std::byte> head) override;
  void end(std::size_t stream, const Frame& frame) override;
  /// How many messages have gone to mailboxes, without heartbeats, which nobody is in a hurry for.
  std::uint64_t delivered() const { return delivered_; }

 private:
  /// A body of which chunks have begun to arrive.
  struct Partial {
    std::shared_ptr<Matcher::Landing> landing;
    Frame first;             ///< what all its chunks must agree with
    std::vector<bool> seen;  ///< chunks that have begun
    std::uint64_t missing;   ///< chunks that have not ended
  };
  base::Result<base::Bytes> begin_chunk(const Frame& frame, std::vector<std::byte> head);
  void complete(const std::shared_ptr<Matcher::Landing>& landing);

  Matcher& matcher_;
  std::vector<std::shared_ptr<Matcher::Landing>> whole_;  ///< under way, by stream
  std::map<std::uint64_t, Partial> partials_;             ///< by number of the message
  TrafficCounters& traffic_;
  std::uint64_t delivered_ = 0;
};

}  // namespace gearshift::transport::tcp
