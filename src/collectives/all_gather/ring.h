#pragma once

#include <vector>

#include "collectives/operation.h"
#include "collectives/team.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// Pipelined ring all-gather of parts of any sizes: each part goes once round the ring.
///
/// N ranks, B bytes in all, |p| bytes of part p, S = segments_for(largest part). Per rank r:
///   steps     N-1
///   messages  (N-1)·S sent, as many received (minus the segments that are empty, in parts with
///             fewer elements than S)
///   bytes     B - |r+1| sent, B - |r| received: (N-1)/N·B when parts are equal
///   memory    none
/// Source: R. Thakur, R. Rabenseifner, W. Gropp, IJHPCA 19(1), 2005, section 4.1.
///
/// `parts[r]` is the place of rank r's part, `unit` the bytes of an element. |r+1| is the part of
/// the next rank in the team.
base::Status ring_all_gather(Operation& operation, const Team& team,
                             const std::vector<base::Bytes>& parts, std::size_t unit);

}  // namespace gearshift::collectives
