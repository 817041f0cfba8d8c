#include "collectives/all_reduce/recursive_doubling.h"

#include <bit>

#include "collectives/schedule.h"
#include "collectives/segments.h"

namespace gearshift::collectives {
namespace {

/// Ranks that stay in the game, numbered 0 … P-1 in the order of their ranks.
class Players {
 public:
  explicit Players(int size)
      : count_(static_cast<int>(std::bit_floor(static_cast<unsigned>(size)))),
        folded_(size - count_) {}

  int count() const { return count_; }
  bool any_folded() const { return folded_ > 0; }
  bool in_pair(int rank) const { return rank < 2 * folded_; }
  bool folds(int rank) const { return in_pair(rank) && rank % 2 == 0; }
  int number_of(int rank) const { return in_pair(rank) ? rank / 2 : rank - folded_; }
  int rank_of(int number) const { return number < folded_ ? 2 * number + 1 : number + folded_; }

 private:
  int count_;
  int folded_;
};

void append_exchanges(const Players& players, int rank, base::Bytes data, Schedule& schedule) {
  const int number = players.number_of(rank);
  for (int distance = 1; distance < players.count(); distance *= 2) {
    if (players.folds(rank)) {
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
         .ends_mean = 2 * distance == players.count()});
  }
}

}  // namespace

base::Status recursive_doubling_all_reduce(Operation& operation, base::Bytes data,
                                           base::DType dtype, base::ReduceOp op) {
  const int rank = operation.rank();
  const Players players(operation.size());
  Schedule schedule{.segments = segments_for(data.size()),
                    .unit = base::size_of(dtype),
                    .dtype = dtype,
                    .op = op};
  const Step give{.to = rank + 1, .send = data};
  const Step take{.from = rank - 1, .into = data, .combine = Combine::kReceivedFirst, .own = data};
  const bool takes_in = players.in_pair(rank) && !players.folds(rank);
  if (players.any_folded()) {
    schedule.steps.push_back(players.folds(rank) ? give : takes_in ? take : Step{});
  }
  append_exchanges(players, rank, data, schedule);
  if (players.any_folded()) {
    const Step get_back{.from = rank + 1, .into = data};
    const Step give_back{.to = rank - 1, .send = data};
    schedule.steps.push_back(players.folds(rank) ? get_back : takes_in ? give_back : Step{});
  }
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
