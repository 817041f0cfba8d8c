#pragma once

#include "collectives/operation.h"
#include "collectives/team.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::collectives {

/// Pipelined ring reduce-scatter: the first half of the ring all-reduce.
///
/// N ranks, B bytes, |p| bytes of part p, S = segments_for(largest part). Per rank r:
///   steps     N-1
///   messages  (N-1)·S sent, as many received (for fewer than N elements: minus the empty parts)
///   bytes     B - |r| sent, B - |r-1| received: (N-1)/N·B when N divides B
///   combines  B - |r-1| bytes
///   memory    min(max(8, W), S) segments (W: in_flight.h)
/// Source: P. Patarasuk, X. Yuan, JPDC 69(2), 2009.
///
/// |r-1|, |r| are the parts of this rank and of the one before it in the team; part r is rank r's.
base::Status ring_reduce_scatter(Operation& operation, const Team& team, base::Bytes data,
                                 base::Bytes out, base::DType dtype, base::ReduceOp op);

}  // namespace gearshift::collectives
