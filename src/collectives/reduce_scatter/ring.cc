#include "collectives/reduce_scatter/ring.h"

#include "collectives/ring.h"
#include "collectives/schedule.h"
#include "collectives/segments.h"

namespace gearshift::collectives {

base::Status ring_reduce_scatter(Operation& operation, base::Bytes data, base::Bytes out,
                                 base::DType dtype, base::ReduceOp op) {
  Schedule schedule{.unit = base::size_of(dtype), .dtype = dtype, .op = op};
  schedule.segments = segments_for(part(data, schedule.unit, operation.size(), 0).size());
  append_ring_reduce_scatter(operation, data, out, schedule);
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
