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
  std::size_t segments = 1;  ///< of the larger half that any player has in this exchange
};

std::vector<Exchange> exchanges_of(const Players& players, base::Bytes data, std::size_t unit) {
  std::vector<Exchange> exchanges;
  base::Bytes range = data;
  base::Bytes largest = data;
  for (int distance = 1; distance < players.count(); distance *= 2) {
    largest = part(largest, unit, 2, 0);
    Exchange e{players.number() ^ distance, part(range, unit, 2, 0), part(range, unit, 2, 1),
               segments_for(largest.size())};
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
         .ends_mean = &e == &exchanges.back(),
         .segments = e.segments});
  }
  for (auto e = exchanges.rbegin(); e != exchanges.rend(); ++e) {
    const int peer = players.rank_of(e->partner);
    schedule.steps.push_back(
        {.to = peer, .send = e->keep, .from = peer, .into = e->give, .segments = e->segments});
  }
}

/// The steps of a player, without messages.
void append_idling(const std::vector<Exchange>& exchanges, Schedule& schedule) {
  for (const Exchange& e : exchanges) schedule.steps.push_back({.segments = e.segments});
  for (auto e = exchanges.rbegin(); e != exchanges.rend(); ++e) {
    schedule.steps.push_back({.segments = e->segments});
  }
}

}  // namespace

base::Status rabenseifner_all_reduce(Operation& operation, const Team& team, base::Bytes data,
                                     base::DType dtype, base::ReduceOp op) {
  const Players players(team);
  Schedule schedule{.segments = segments_for(data.size()),  // of folding
                    .unit = base::size_of(dtype),
                    .dtype = dtype,
                    .op = op};
  players.append_fold(data, schedule);
  const std::vector<Exchange> exchanges = exchanges_of(players, data, schedule.unit);
  if (players.folds()) {
    append_idling(exchanges, schedule);
  } else {
    append_exchanges(players, exchanges, schedule);
  }
  players.append_unfold(data, schedule);
  for (Step& step : schedule.steps) step.fence = true;  // each cuts another range
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
