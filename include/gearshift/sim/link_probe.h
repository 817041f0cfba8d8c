#pragma once

#include <cstddef>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/group/group.h"

namespace gearshift::sim {

/// What `gearshift calibrate` measures of a link: docs/calibration.md says what becomes of it.
struct LinkTimes {
  /// For each size, seconds of one message one way: half of the median round trip.
  std::vector<double> one_way;
  /// Seconds from one small message to the next of many that leave without waiting: what the
  /// busier of the two processors needs for one.
  double per_message = 0;
};

/// Measures between two ranks of a group. Collective over the group: the others wait. The result is
/// that of rank `a`; on other ranks it is empty.
base::Result<LinkTimes> probe_link(group::Group& group, base::Rank a, base::Rank b,
                                   const std::vector<std::size_t>& sizes, int round_trips);

/// Bytes per second of what a host does with memory, besides computing.
struct WorkRates {
  double reduce = 0;  ///< gradients summed (float32), bytes of one operand
  double update = 0;  ///< parameters updated (float32, SGD with momentum)
  double copy = 0;
};
/// Medians over more than caches hold, one thread.
base::Result<WorkRates> probe_work(base::Scheduler& scheduler);

}  // namespace gearshift::sim
