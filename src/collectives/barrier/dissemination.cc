#include "collectives/barrier/dissemination.h"

#include <bit>

#include "collectives/segments.h"

namespace gearshift::collectives {

base::Status dissemination_barrier(Operation& operation) {
  const int n = operation.size();
  const int r = operation.rank();
  const auto steps = static_cast<std::size_t>(std::bit_width(static_cast<unsigned>(n - 1)));
  operation.reserve(steps);
  for (std::size_t k = 0; k < steps; ++k) {
    const int distance = 1 << k;
    const int to = modulo(r + distance, n);
    const int from = modulo(r - distance, n);
    const transport::Request sent = operation.link(to).send(operation.tag(k), {});
    const transport::Request received = operation.link(from).recv(operation.tag(k), {});
    // Empty messages occupy no memory: nothing to withdraw after an error.
    GEARSHIFT_RETURN_IF_ERROR(operation.await_recv(received, from, {k, steps}));
    GEARSHIFT_RETURN_IF_ERROR(operation.await_send(sent, to, {k, steps}));
  }
  return {};
}

}  // namespace gearshift::collectives
