#include "collectives/all_gather/bruck.h"

#include <algorithm>
#include <cstring>

#include "collectives/ring.h"
#include "collectives/schedule.h"
#include "collectives/scratch.h"

namespace gearshift::collectives {
namespace {

void copy(base::ConstBytes from, base::Bytes into) {
  if (from.data() != nullptr && into.data() != nullptr) {
    std::memcpy(into.data(), from.data(), from.size());
  }
}

}  // namespace

base::Status bruck_all_gather(Operation& operation, const Team& team,
                              const std::vector<base::Bytes>& parts, std::size_t unit) {
  const auto n = parts.size();
  // From the own part on, once round the team.
  std::vector<base::Bytes> places = by_position(team, parts);
  std::rotate(places.begin(), places.begin() + team.self, places.end());
  std::vector<std::size_t> offsets{0};
  for (const base::Bytes& place : places) offsets.push_back(offsets.back() + place.size());
  Scratch scratch(offsets.back(), std::any_of(places.begin(), places.end(),
                                              [](base::Bytes b) { return base::is_phantom(b); }));
  const auto range = [&](std::size_t first, std::size_t count) {
    return base::slice(scratch.view(), offsets[first], offsets[first + count] - offsets[first]);
  };

  copy(places[0], range(0, 1));
  Schedule schedule{.unit = unit};
  for (std::size_t have = 1; have < n; have *= 2) {
    const std::size_t count = std::min(have, n - have);
    const auto distance = static_cast<int>(have);
    schedule.steps.push_back({.to = team.rank(team.self - distance),
                              .send = range(0, count),
                              .from = team.rank(team.self + distance),
                              .into = range(have, count)});
  }
  GEARSHIFT_RETURN_IF_ERROR(run(operation, schedule));
  for (std::size_t i = 1; i < n; ++i) copy(range(i, 1), places[i]);
  return {};
}

}  // namespace gearshift::collectives
