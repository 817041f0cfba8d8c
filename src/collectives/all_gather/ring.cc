#include "collectives/all_gather/ring.h"

#include <algorithm>

#include "collectives/ring.h"
#include "collectives/schedule.h"
#include "collectives/segments.h"

namespace gearshift::collectives {

base::Status ring_all_gather(Operation& operation, const Team& team,
                             const std::vector<base::Bytes>& parts, std::size_t unit) {
  std::size_t largest = 0;
  for (const base::Bytes& p : parts) largest = std::max(largest, p.size());
  Schedule schedule{.segments = segments_for(largest), .unit = unit};
  append_ring_all_gather(team, by_position(team, parts), schedule);
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
