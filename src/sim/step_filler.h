#pragma once

#include <deque>
#include <vector>

#include "gearshift/sim/simulate.h"
#include "sim/milestone.h"

namespace gearshift::sim {

/// Steps that are to be put into a result as copies of others.
struct Filling {
  int after = 0;   ///< the step after which they are missing; counts from 1
  int window = 0;  ///< the last so many steps until then are copied, in turn
  int count = 0;   ///< steps that are missing
  /// Workers drift apart: each goes on at its own pace. Otherwise all at that of all together.
  bool apart = false;
};

/// Puts copies of steps that were simulated into a result in place of those that were not: times,
/// and what the copied steps add to each sum. `rows` begin with the first step; with `apart` they
/// go on until the last one that was simulated.
///
/// Copies follow each other without a gap. Where workers keep together, each copy of the window
/// takes as long as it took all of them on average: by how much a worker was faster or slower is
/// taken back in the copy's first step if it is little, otherwise in proportion in all steps.
///
/// Where they drift apart, the first to be done leaves the others an emptier network. Until then
/// steps are as those of the window, afterwards as those that were simulated after the first
/// worker's end; both parts are as long in proportion as in the training that was simulated.
void fill(SimulationResult& result, const std::deque<StepRow>& rows, const Filling& filling);

}  // namespace gearshift::sim
