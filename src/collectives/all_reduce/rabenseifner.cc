#include "collectives/all_reduce/rabenseifner.h"

#include <utility>
#include <vector>

#include "collectives/players.h"
#include "collectives/schedule.h"
#include "collectives/segments.h"

namespace gearshift::collectives {
namespace {

/// One exchange with one partner on the way down: what this player keeps, and what it gives away.
struct Exchange {
  int partner = 0;
  base::Bytes keep{};
  base::Bytes give{};
};

std::vector<Exchange> exchanges_of(const Players& players, base::Bytes data, std::size_t unit) {
  std::vector<Exchange> exchanges;
  base::Bytes range = data;
  for (int distance = 1; distance < players.count(); distance *= 2) {
    Exchange e{players.number() ^ distance, part(range, unit, 2, 0), part(range, unit, 2, 1)};
    if ((players.number() & distance) != 0) std::swap(e.keep, e.give);
    range = e.keep;
    exchanges.push_back(e);
  }
  return exchanges;
}

void append_exchanges(const Players& players, const std::vector<Exchange>& exchanges,
                      Schedule& schedule) {
  for (const Exchange& e : exchanges) {
    const int peer = players.rank_of(e.partner);
    schedule.steps.push_back(
        {.to = peer,
         .send = e.give,
         .from = peer,
         .into = e.keep,
         .combine = players.number() < e.partner ? Combine::kOwnFirst : Combine::kReceivedFirst,
         .own = e.keep,
         .ends_mean = &e == &exchanges.back()});
    append_fence(schedule);
  }
  for (auto e = exchanges.rbegin(); e != exchanges.rend(); ++e) {
    const int peer = players.rank_of(e->partner);
    schedule.steps.push_back({.to = peer, .send = e->keep, .from = peer, .into = e->give});
    append_fence(schedule);
  }
}

/// As many steps as a player has.
void append_idling(std::size_t exchanges, Schedule& schedule) {
  for (std::size_t i = 0; i < 2 * exchanges; ++i) {
    schedule.steps.push_back({});
    append_fence(schedule);
  }
}

}  // namespace

base::Status rabenseifner_all_reduce(Operation& operation, const Team& team, base::Bytes data,
                                     base::DType dtype, base::ReduceOp op) {
  const Players players(team);
  Schedule schedule{.unit = base::size_of(dtype), .dtype = dtype, .op = op};
  const base::Bytes largest = players.any_folded() ? data : part(data, schedule.unit, 2, 0);
  schedule.segments = segments_for(largest.size());
  players.append_fold(data, schedule);
  append_fence(schedule);
  const std::vector<Exchange> exchanges = exchanges_of(players, data, schedule.unit);
  if (players.folds()) {
    append_idling(exchanges.size(), schedule);
  } else {
    append_exchanges(players, exchanges, schedule);
  }
  players.append_unfold(data, schedule);
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
