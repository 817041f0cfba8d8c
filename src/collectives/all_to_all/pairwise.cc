#include "collectives/all_to_all/pairwise.h"

#include "collectives/schedule.h"
#include "collectives/segments.h"

namespace gearshift::collectives {

base::Status pairwise_all_to_all(Operation& operation, base::ConstBytes in, base::Bytes out) {
  const int n = operation.size();
  const int r = operation.rank();
  const std::size_t block = in.size() / static_cast<std::size_t>(n);
  const auto offset = [&](int rank) { return static_cast<std::size_t>(rank) * block; };
  Schedule schedule{.segments = segments_for(block), .independent = true};
  for (int s = 1; s < n; ++s) {
    const int to = modulo(r + s, n);
    const int from = modulo(r - s, n);
    schedule.steps.push_back({.to = to,
                              .send = base::slice(in, offset(to), block),
                              .from = from,
                              .into = base::slice(out, offset(from), block)});
  }
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
