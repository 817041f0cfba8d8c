#pragma once

#include <cstddef>

#include "collectives/operation.h"
#include "collectives/team.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::collectives {

/// Pipelined ring: reduce-scatter, then all-gather, as one stream of segments, so that segment k is
/// combined and passed on while segment k+1 arrives, with no pause between the halves.
///
/// N ranks, B bytes, |p| bytes of part p, S = segments_for(largest part). At position i:
///   steps     2(N-1)
///   messages  2(N-1)·S sent, as many received (for fewer than N elements: minus the empty parts)
///   bytes     2B - |i| - |i+1| sent, 2B - |i-1| - |i| received: 2(N-1)/N·B when N divides B
///   combines  B - |i-1| bytes
///   memory    min(max(8, W), S) segments (W: in_flight.h)
/// Source: P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
/// workstations", JPDC 69(2), 2009.
///
/// Each part is combined by one chain of ranks and then copied: bit-identical everywhere. A mean is
/// divided by the part's owner before the copies go out.
base::Status ring_all_reduce(Operation& operation, const Team& team, base::Bytes data,
                             base::DType dtype, base::ReduceOp op);

}  // namespace gearshift::collectives
