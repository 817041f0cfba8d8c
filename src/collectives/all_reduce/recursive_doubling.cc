#include "collectives/all_reduce/recursive_doubling.h"

#include "collectives/players.h"
#include "collectives/segments.h"

namespace gearshift::collectives {

void append_recursive_doubling(const Team& team, base::Bytes data, bool ends_mean,
                               Schedule& schedule) {
  const Players players(team);
  players.append_fold(data, schedule);
  const int number = players.number();
  for (int distance = 1; distance < players.count(); distance *= 2) {
    if (players.folds()) {
      schedule.steps.push_back({});  // keeps message numbers equal on all ranks
      continue;
    }
    const int partner = number ^ distance;
    const int peer = players.rank_of(partner);
    schedule.steps.push_back(
        {.to = peer,
         .send = data,
         .from = peer,
         .into = data,
         .combine = number < partner ? Combine::kOwnFirst : Combine::kReceivedFirst,
         .own = data,
         .ends_mean = ends_mean && 2 * distance == players.count()});
  }
  players.append_unfold(data, schedule);
}

base::Status recursive_doubling_all_reduce(Operation& operation, const Team& team, base::Bytes data,
                                           base::DType dtype, base::ReduceOp op) {
  Schedule schedule{.segments = segments_for(data.size()),
                    .unit = base::size_of(dtype),
                    .dtype = dtype,
                    .op = op};
  append_recursive_doubling(team, data, true, schedule);
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
