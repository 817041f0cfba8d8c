#include "collectives/ring.h"

#include "collectives/segments.h"

namespace gearshift::collectives {
namespace {

base::Bytes at(const std::vector<base::Bytes>& parts, int position) {
  return parts[static_cast<std::size_t>(modulo(position, static_cast<int>(parts.size())))];
}

}  // namespace

void append_ring_reduce_scatter(const Team& team, const std::vector<base::Bytes>& parts,
                                base::Bytes out, bool ends_mean, Schedule& schedule) {
  const int i = team.self;
  for (int s = 0; s < team.size() - 1; ++s) {
    const bool last = s == team.size() - 2;
    const base::Bytes own = at(parts, i - 2 - s);
    schedule.steps.push_back({.to = team.rank(i + 1),
                              .send = at(parts, i - 1 - s),
                              .from = team.rank(i - 1),
                              .into = last ? out : own,
                              .combine = Combine::kReceivedFirst,
                              .own = own,
                              .ends_mean = last && ends_mean});
  }
}

void append_ring_all_gather(const Team& team, const std::vector<base::Bytes>& parts,
                            Schedule& schedule) {
  const int i = team.self;
  for (int s = 0; s < team.size() - 1; ++s) {
    schedule.steps.push_back({.to = team.rank(i + 1),
                              .send = at(parts, i - s),
                              .from = team.rank(i - 1),
                              .into = at(parts, i - 1 - s)});
  }
}

std::vector<base::Bytes> equal_parts(base::Bytes data, std::size_t unit, int parts) {
  std::vector<base::Bytes> views;
  views.reserve(static_cast<std::size_t>(parts));
  for (int p = 0; p < parts; ++p) views.push_back(part(data, unit, parts, p));
  return views;
}

std::vector<base::Bytes> by_position(const Team& team, const std::vector<base::Bytes>& parts) {
  std::vector<base::Bytes> sorted;
  sorted.reserve(parts.size());
  for (const int rank : team.ranks) sorted.push_back(parts[static_cast<std::size_t>(rank)]);
  return sorted;
}

}  // namespace gearshift::collectives
