#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/group/group.h"
#include "gearshift/sim/simulate.h"
#include "gearshift/strategy/replica.h"

namespace gearshift::sim {

/// What one worker of a paced job has seen.
struct PacedResult {
  WorkerResult worker;    ///< times in seconds since `start`; traffic is left to the caller
  base::TimePoint start;  ///< when its first step began
  std::vector<Span> timeline;
  std::vector<strategy::SwitchRecord> switches;
};

/// Makes this process's replica: `Session::distribute` of a real job.
using Distribute =
    std::function<base::Result<std::unique_ptr<strategy::Replica>>(strategy::ReplicaOptions)>;

/// One worker's part of a real job whose computation is sleeping: what `simulate` predicts, on real
/// machines. Processors have nothing to do but to communicate, so that even a few of them can stand
/// for a cluster.
///
/// `rank` and the number of workers are those of the job's cluster, whose stragglers and speeds
/// hold, whose network doesn't. Collective over `workers`; blocks until all steps are done.
base::Result<PacedResult> run_paced(const SimulationOptions& job, int rank, group::Group& workers,
                                    const Distribute& distribute);

}  // namespace gearshift::sim
