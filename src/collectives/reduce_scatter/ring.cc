#include "collectives/reduce_scatter/ring.h"

#include "collectives/ring.h"
#include "collectives/schedule.h"
#include "collectives/segments.h"

namespace gearshift::collectives {

base::Status ring_reduce_scatter(Operation& operation, const Team& team, base::Bytes data,
                                 base::Bytes out, base::DType dtype, base::ReduceOp op) {
  Schedule schedule{.unit = base::size_of(dtype), .dtype = dtype, .op = op};
  const auto parts = equal_parts(data, schedule.unit, team.size());
  schedule.segments = segments_for(parts[0].size());
  append_ring_reduce_scatter(team, by_position(team, parts), out, true, schedule);
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
