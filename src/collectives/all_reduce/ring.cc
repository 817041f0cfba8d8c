#include "collectives/all_reduce/ring.h"

#include "collectives/ring.h"
#include "collectives/schedule.h"
#include "collectives/segments.h"

namespace gearshift::collectives {

base::Status ring_all_reduce(Operation& operation, const Team& team, base::Bytes data,
                             base::DType dtype, base::ReduceOp op) {
  Schedule schedule{.unit = base::size_of(dtype), .dtype = dtype, .op = op};
  const auto parts = equal_parts(data, schedule.unit, team.size());
  schedule.segments = segments_for(parts[0].size());
  schedule.steps.reserve(2 * (parts.size() - 1));
  append_ring_reduce_scatter(team, parts, parts[static_cast<std::size_t>(team.self)], true,
                             schedule);
  append_ring_all_gather(team, parts, schedule);
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
