#pragma once

#include "collectives/operation.h"

namespace gearshift::collectives {

/// Dissemination barrier: in step k rank r tells r+2^k that it has come, and hears from r-2^k.
///
/// N ranks. Per rank: ceil(log2 N) steps, ceil(log2 N) messages each way, no payload.
/// Source: D. Hensgen, R. Finkel, U. Manber, "Two algorithms for barrier synchronization",
/// Int. J. Parallel Programming 17(1), 1988.
base::Status dissemination_barrier(Operation& operation);

}  // namespace gearshift::collectives
