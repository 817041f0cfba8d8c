#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "gearshift/base/scheduler.h"

namespace gearshift::sim {

/// Events by their time, `Event::until`; equal times in the order in which they came. None may be
/// earlier than what was taken last, as on a clock that never goes back.
///
/// A radix heap: an event lies in the bucket of the highest bit in which its time differs from the
/// latest one taken. When that bucket is the lowest that holds anything, its events are spread over
/// the ones below. So memory is read and written in order, where a binary heap of thousands of
/// events misses the caches at each of its levels. Source: R. Ahuja, K. Mehlhorn, J. Orlin,
/// R. Tarjan, "Faster algorithms for the shortest path problem", 1990.
template <typename Event>
class EventQueue {
 public:
  bool empty() const { return size_ == 0; }
  /// The earliest; never() if there is none.
  base::TimePoint next() const { return next_; }

  void push(const Event& event) {
    bucket_of(event).push_back(event);
    ++size_;
    if (event.until < next_) next_ = event.until;
  }

  /// The events of the time `next()`, into `due`, which is empty.
  void pop(std::vector<Event>& due) {
    std::size_t lowest = 0;
    while (buckets_[lowest].empty()) ++lowest;
    latest_ = key(next_);
    if (lowest > 0) {
      spread_.swap(buckets_[lowest]);
      for (const Event& event : spread_) bucket_of(event).push_back(event);
      spread_.clear();
    }
    due.swap(buckets_[0]);
    size_ -= due.size();
    next_ = base::TimePoint::never();
    for (const std::vector<Event>& bucket : buckets_) {
      if (bucket.empty()) continue;
      for (const Event& event : bucket) {
        if (event.until < next_) next_ = event.until;
      }
      break;  // what lies in a bucket is earlier than all that lies above
    }
  }

 private:
  static std::uint64_t key(base::TimePoint time) {
    return static_cast<std::uint64_t>(time.since_origin.count());
  }
  std::vector<Event>& bucket_of(const Event& event) {
    return buckets_[static_cast<std::size_t>(std::bit_width(key(event.until) ^ latest_))];
  }

  std::array<std::vector<Event>, 65> buckets_;
  std::vector<Event> spread_;
  std::uint64_t latest_ = 0;
  base::TimePoint next_ = base::TimePoint::never();
  std::size_t size_ = 0;
};

}  // namespace gearshift::sim
