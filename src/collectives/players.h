#pragma once

#include <bit>

#include "collectives/schedule.h"
#include "collectives/team.h"

namespace gearshift::collectives {

/// The members of a team that play an algorithm for a power of two, P, of them, numbered
/// 0 … P-1. With R members too many, the first 2R positions fold in pairs: the even one hands its
/// array to the odd one before the game, and gets the result back after it.
class Players {
 public:
  explicit Players(const Team& team)
      : team_(team),
        count_(static_cast<int>(std::bit_floor(static_cast<unsigned>(team.size())))),
        folded_(team.size() - count_) {}

  int count() const { return count_; }
  bool any_folded() const { return folded_ > 0; }
  /// Whether this rank sits the game out.
  bool folds() const { return in_pair(team_.self) && team_.self % 2 == 0; }
  /// This rank's number, if it plays.
  int number() const { return in_pair(team_.self) ? team_.self / 2 : team_.self - folded_; }
  int rank_of(int number) const {
    return team_.rank(number < folded_ ? 2 * number + 1 : number + folded_);
  }

  /// One step, if any fold: arrays come in.
  void append_fold(base::Bytes data, Schedule& schedule) const {
    if (!any_folded()) return;
    const bool takes = in_pair(team_.self) && !folds();
    const Step give{.to = team_.rank(team_.self + 1), .send = data};
    const Step take{.from = team_.rank(team_.self - 1),
                    .into = data,
                    .combine = Combine::kReceivedFirst,
                    .own = data};
    schedule.steps.push_back(folds() ? give : takes ? take : Step{});
  }
  /// One step, if any fold: the result goes back.
  void append_unfold(base::Bytes data, Schedule& schedule) const {
    if (!any_folded()) return;
    const bool gives = in_pair(team_.self) && !folds();
    const Step get{.from = team_.rank(team_.self + 1), .into = data};
    const Step give{.to = team_.rank(team_.self - 1), .send = data};
    schedule.steps.push_back(folds() ? get : gives ? give : Step{});
  }

 private:
  bool in_pair(int position) const { return position < 2 * folded_; }

  Team team_;
  int count_;
  int folded_;
};

}  // namespace gearshift::collectives
