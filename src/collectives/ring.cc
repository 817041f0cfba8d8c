#include "collectives/ring.h"

#include "collectives/segments.h"

namespace gearshift::collectives {

void append_ring_reduce_scatter(const Operation& operation, base::Bytes data, base::Bytes out,
                                Schedule& schedule) {
  const int n = operation.size();
  const int r = operation.rank();
  for (int s = 0; s < n - 1; ++s) {
    const bool last = s == n - 2;
    const base::Bytes own = part(data, schedule.unit, n, modulo(r - 2 - s, n));
    schedule.steps.push_back({.to = modulo(r + 1, n),
                              .send = part(data, schedule.unit, n, modulo(r - 1 - s, n)),
                              .from = modulo(r - 1, n),
                              .into = last ? out : own,
                              .combine = Combine::kReceivedFirst,
                              .own = own,
                              .ends_mean = last});
  }
}

void append_ring_all_gather(const Operation& operation, const std::vector<base::Bytes>& parts,
                            Schedule& schedule) {
  const int n = operation.size();
  const int r = operation.rank();
  const auto at = [&](int p) { return parts[static_cast<std::size_t>(modulo(p, n))]; };
  for (int s = 0; s < n - 1; ++s) {
    schedule.steps.push_back({.to = modulo(r + 1, n),
                              .send = at(r - s),
                              .from = modulo(r - 1, n),
                              .into = at(r - 1 - s)});
  }
}

std::vector<base::Bytes> equal_parts(base::Bytes data, std::size_t unit, int parts) {
  std::vector<base::Bytes> views;
  views.reserve(static_cast<std::size_t>(parts));
  for (int p = 0; p < parts; ++p) views.push_back(part(data, unit, parts, p));
  return views;
}

}  // namespace gearshift::collectives
