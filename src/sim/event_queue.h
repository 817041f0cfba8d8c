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
  bool empty() const { return now_.empty() && used_ == 0; }
  /// The earliest; never() if there is none.
  base::TimePoint next() const { return next_; }

  void push(const Event& event) {
    put(event);
    if (event.until < next_) next_ = event.until;
  }

  /// The events of the time `next()`, into `due`, which is empty.
  void pop(std::vector<Event>& due) {
    latest_ = key(next_);
    if (!now_.empty()) {
      due.swap(now_);
    } else {
      std::vector<Event>& bucket = later_[lowest()];
      used_ &= used_ - 1;
      if (bucket.size() == 1) {  // often: it is the earliest, and nothing has to be spread
        due.push_back(bucket.front());
        bucket.clear();
      } else {
        spread_.swap(bucket);
        for (const Event& event : spread_) put(event);
        spread_.clear();
        due.swap(now_);
      }
    }
    // What lies in a bucket is earlier than all that lies above.
    next_ = used_ == 0 ? base::TimePoint::never() : least_[lowest()];
  }

 private:
  static std::uint64_t key(base::TimePoint time) {
    return static_cast<std::uint64_t>(time.since_origin.count());
  }
  void put(const Event& event) {
    const std::uint64_t differs = key(event.until) ^ latest_;
    if (differs == 0) return now_.push_back(event);
    const int highest = std::bit_width(differs) - 1;
    const auto bucket = static_cast<std::size_t>(highest);
    const std::uint64_t bit = std::uint64_t{1} << highest;
    if ((used_ & bit) == 0 || event.until < least_[bucket]) least_[bucket] = event.until;
    later_[bucket].push_back(event);
    used_ |= bit;
  }
  /// The bucket of the earliest events that are later than the latest time taken.
  std::size_t lowest() const { return static_cast<std::size_t>(std::countr_zero(used_)); }

  std::vector<Event> now_;                    ///< of the latest time taken
  std::array<std::vector<Event>, 64> later_;  ///< by the highest bit that differs
  std::array<base::TimePoint, 64> least_;     ///< of those that hold something: the earliest time
  std::uint64_t used_ = 0;                    ///< which of them hold something, one bit each
  std::vector<Event> spread_;
  std::uint64_t latest_ = 0;
  base::TimePoint next_ = base::TimePoint::never();
};

}  // namespace gearshift::sim
