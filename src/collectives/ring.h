#pragma once

#include "collectives/operation.h"
#include "collectives/schedule.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// The two halves of ring algorithms, as steps of a schedule. Rank r sends to r+1 and receives from
/// r-1. Of n elements, part p is [part_begin(n, N, p), part_begin(n, N, p+1)).

/// N-1 steps. In step s rank r sends part r-1-s, and adds its own values to part r-2-s that it
/// receives; so part p starts at rank p+1, goes round, and is complete at rank p, in `out`
/// (which may be that part of `data` itself).
void append_ring_reduce_scatter(const Operation& operation, base::Bytes data, base::Bytes out,
                                Schedule& schedule);

/// N-1 steps. In step s rank r sends part r-s and receives part r-1-s. `parts[r]` are views of the
/// parts' places.
void append_ring_all_gather(const Operation& operation, const std::vector<base::Bytes>& parts,
                            Schedule& schedule);

/// The N parts of reduce_scatter of an array with elements of `unit` bytes.
std::vector<base::Bytes> equal_parts(base::Bytes data, std::size_t unit, int parts);

}  // namespace gearshift::collectives
