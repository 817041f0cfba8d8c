#pragma once

#include <cstddef>
#include <vector>

#include "collectives/operation.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"
#include "gearshift/base/result.h"

namespace gearshift::collectives {

/// What happens to bytes that a step receives.
enum class Combine : unsigned char {
  kReplace,       ///< they are received straight into their place
  kOwnFirst,      ///< into = op(own, received)
  kReceivedFirst  ///< into = op(received, own)
};

inline constexpr int kNobody = -1;

/// One step of an algorithm on one rank: it sends one part and receives another. Empty views and
/// kNobody mean that nothing is sent (or received); the peer's step says the same.
struct Step {
  int to = kNobody;
  base::ConstBytes send{};
  int from = kNobody;
  base::Bytes into{};
  Combine combine = Combine::kReplace;
  base::ConstBytes own{};  ///< the first or second operand; may be `into`
  bool ends_mean = false;  ///< `into` is complete: under kMean, divide it
  /// Segments of the parts of this step; 0: Schedule::segments. Equal on all ranks, idle ones
  /// included, so it follows from a size that all of them know.
  std::size_t segments = 0;
  /// Nothing of this step starts before everything ahead of it is complete on this rank.
  bool fence = false;
};

/// An algorithm as data: what one rank does, step by step. The cost of an algorithm can be read off
/// it, and `run` is the only loop that moves bytes for all of them.
///
/// Each part is cut into segments. Item i = (step, segment) in row order is message i on its link.
/// Items are sent ahead of the one that is being combined, as many as fill the links (in_flight.h),
/// but never over a fence, nor more than one step ahead, and segment k of the next step not before
/// segment k of this one is complete. Receives may be posted further ahead, where no item before
/// needs their memory. Hence the rules:
///  - a step may send what any earlier step received or combined;
///  - a combining step may write what it, or any earlier step, sends;
///  - a replacing step may write what any earlier step sends;
///  - of the step before, this is true segment by segment: a step that cuts the same memory
///    differently than the one before has a fence.
struct Schedule {
  std::vector<Step> steps{};
  std::size_t segments = 1;  ///< of the steps that don't say otherwise
  std::size_t unit = 1;      ///< bytes of an element: no segment ends within one
  base::DType dtype = base::DType::kU8;
  base::ReduceOp op = base::ReduceOp::kSum;
  /// No step reads or writes what another one writes: messages of several steps may be under way.
  bool independent = false;

  std::size_t segments_of(const Step& step) const {
    return step.segments > 0 ? step.segments : segments;
  }
  std::size_t items() const;
};

/// Runs the schedule. Every rank must have the same number of steps, and of segments in each. When
/// it returns, successful or not, nothing touches the schedule's memory any more.
base::Status run(Operation& operation, const Schedule& schedule);

}  // namespace gearshift::collectives
