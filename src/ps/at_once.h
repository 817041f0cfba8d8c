#pragma once

#include <array>
#include <cstddef>
#include <limits>

#include "gearshift/base/scheduler.h"

namespace gearshift::ps {

/// Whether a server answers its workers in turns, a few at a time, or all at once. Turns are better
/// if the links of a few workers fill the server's, which nobody has measured. So it is found by
/// trial: all at once is the beginning; how many answers leave per second while the link is busy is
/// compared, and the other way tried again now and then. Not thread-safe.
class AtOnce {
 public:
  /// Answers that may be under way to a worker: one on the wire, and one behind it.
  static constexpr int kWindow = 2;

  /// A step has so many answers.
  AtOnce(int few, std::size_t answers);

  /// How many answers may be under way, to all workers and to one of them.
  int most() const { return in_turns_ ? kWindow * few_ : std::numeric_limits<int>::max(); }
  int window() const { return in_turns_ ? kWindow : std::numeric_limits<int>::max(); }
  bool in_turns() const { return in_turns_; }
  /// Whether what leaves counts with so many answers under way to so many workers: in turns with as
  /// many as may be, and without them to more workers than would be served in turns.
  bool is_busy(int under_way, std::size_t workers) const {
    return in_turns_ ? under_way == kWindow * few_ : workers > static_cast<std::size_t>(few_);
  }
  /// An answer has left, after so much time in which the link was busy.
  void left(base::Duration busy);
  /// An answer has left while fewer were under way.
  void left_idle();

 private:
  /// Steps until the other way is tried again: at first, and twice as many each time that it was
  /// not taken.
  static constexpr int kSteps = 50, kMostSteps = 1600;
  /// By how much turns may be slower: it is measured no more exactly.
  static constexpr double kAsFast = 0.9;
  /// What is slower than that need not be tried to the end.
  static constexpr double kMuchSlower = 0.6;

  double rate() const;
  void decide(bool in_turns);
  void go_over(bool in_turns);

  const int few_;
  const std::size_t answers_;
  bool in_turns_ = false;
  bool trial_ = false;
  int steps_ = 1;                  ///< until the next trial
  int pause_ = kSteps;             ///< between trials
  std::array<double, 2> rates_{};  ///< answers per second: without turns, with them
  std::size_t counted_ = 0;        ///< answers so far …
  base::Duration took_{0};         ///< … and their time
  std::size_t spare_ = 0;          ///< in a trial: answers that left while it was not busy
};

}  // namespace gearshift::ps
