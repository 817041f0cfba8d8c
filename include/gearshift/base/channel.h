#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"

namespace gearshift::base {

/// An unbounded queue between tasks. Thread-safety: all methods.
template <typename T>
class Channel {
 public:
  explicit Channel(Scheduler& scheduler) : monitor_(scheduler.make_monitor()) {}

  /// Appends, unless the channel is closed (then `item` is dropped and false returned).
  bool push(T item) {
    std::lock_guard<Monitor> lock(*monitor_);
    if (closed_) return false;
    items_.push_back(std::move(item));
    monitor_->notify_all();
    return true;
  }

  /// Takes the oldest item; waits until `deadline`. Items pushed before `close` are still
  /// delivered; after them comes the closing error.
  Result<T> pop(TimePoint deadline) {
    std::lock_guard<Monitor> lock(*monitor_);
    while (items_.empty()) {
      if (closed_) return *closed_;
      if (!monitor_->wait_until(deadline) && items_.empty() && !closed_) {
        return Error(ErrorCode::kTimeout, "nothing arrived before the deadline");
      }
    }
    T item = std::move(items_.front());
    items_.pop_front();
    return item;
  }

  std::optional<T> try_pop() {
    std::lock_guard<Monitor> lock(*monitor_);
    if (items_.empty()) return std::nullopt;
    T item = std::move(items_.front());
    items_.pop_front();
    return item;
  }

  /// No more items; waiters wake with `reason`. The first reason stays.
  void close(Error reason) {
    std::lock_guard<Monitor> lock(*monitor_);
    if (!closed_) closed_ = std::move(reason);
    monitor_->notify_all();
  }

 private:
  std::unique_ptr<Monitor> monitor_;
  std::deque<T> items_;
  std::optional<Error> closed_;
};

}  // namespace gearshift::base
