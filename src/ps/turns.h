#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "ps/at_once.h"

namespace gearshift::ps {

/// In which order the answers of a shard go out: first to those workers whose turn came first, and
/// to a few at a time. See docs/decisions/0025-turns.md. Not thread-safe.
class Turns {
 public:
  /// A slice that a worker gets.
  struct Answer {
    int worker = 0;
    std::uint32_t request = 0;
    std::size_t slice = 0;
  };

  Turns(int workers, const AtOnce& at_once);

  /// To be sent in its turn; a worker's turn comes with the first answer of a request.
  void add(const Answer& answer);
  /// What is to be sent now, if anything is. It is under way until `left`.
  std::optional<Answer> next(base::TimePoint now);
  /// An answer to this worker is through, or lost.
  void left(int worker, base::TimePoint now);
  /// What waits, whoever's turn it is: when a shard ends.
  std::optional<Answer> any();

  bool waiting() const { return !waiting_.empty(); }
  /// When to ask again at the latest, while something waits.
  base::Duration patience() const { return kStalled; }

 private:
  /// A worker that takes nothing for so long, frozen or behind a slow link, no longer counts, so
  /// that others are served.
  static constexpr base::Duration kStalled = std::chrono::seconds(1);

  struct Queue {
    std::deque<Answer> waiting;
    std::uint32_t request = 0;
    std::uint64_t turn = 0;  ///< lower is earlier
    int under_way = 0;
    base::TimePoint moved{};  ///< when one last left, or the first set out
    bool counts = true;       ///< among those that are served
  };

  Queue& of(int worker) { return queues_[static_cast<std::size_t>(worker)]; }
  bool full(base::TimePoint now);

  AtOnce at_once_;
  std::vector<Queue> queues_;
  std::set<std::pair<std::uint64_t, int>> waiting_;  ///< turn, worker
  std::set<int> served_;                             ///< workers to whom something is under way
  std::uint64_t turns_ = 0;
  int under_way_ = 0;  ///< to all that count
  base::TimePoint busy_since_{};
};

}  // namespace gearshift::ps
