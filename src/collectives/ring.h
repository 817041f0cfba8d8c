#pragma once

#include <vector>

#include "collectives/schedule.h"
#include "collectives/team.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// The two halves of ring algorithms, as steps of a schedule, for a team of N. Position i sends to
/// i+1 and receives from i-1. `parts[i]` is the part that position i owns, in the full array.

/// N-1 steps. In step s position i sends part i-1-s, and adds its own values to part i-2-s that it
/// receives; so part p starts at position p+1, goes round, and is complete at position p, in `out`
/// (which may be `parts[p]` itself). `ends_mean`: it is complete over the whole group.
void append_ring_reduce_scatter(const Team& team, const std::vector<base::Bytes>& parts,
                                base::Bytes out, bool ends_mean, Schedule& schedule);

/// N-1 steps. In step s position i sends part i-s and receives part i-1-s.
void append_ring_all_gather(const Team& team, const std::vector<base::Bytes>& parts,
                            Schedule& schedule);

/// The N parts of reduce_scatter of an array with elements of `unit` bytes.
std::vector<base::Bytes> equal_parts(base::Bytes data, std::size_t unit, int parts);
/// `parts[r]` belongs to rank r: in the order of the team's positions.
std::vector<base::Bytes> by_position(const Team& team, const std::vector<base::Bytes>& parts);

}  // namespace gearshift::collectives
