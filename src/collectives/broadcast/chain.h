#pragma once

#include "collectives/operation.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// Pipelined chain, for large arrays: root, root+1, …, each rank passes a segment on while the next
/// one arrives, so that every link is busy and no rank sends more than B bytes.
///
/// N ranks, B bytes, S = segments_for(B). Per rank:
///   steps     S + N - 2 until the last rank has everything
///   messages  S sent (last rank: 0), S received (root: 0)
///   bytes     B sent (last rank: 0), B received (root: 0)
///   memory    none
/// Source: J. Pješivac-Grbović et al., "Performance analysis of MPI collective operations",
/// Cluster Computing 10(2), 2007, section 3 (pipeline).
base::Status chain_broadcast(Operation& operation, base::Bytes data, int root);

}  // namespace gearshift::collectives
