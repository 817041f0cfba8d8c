#include "ps/at_once.h"

#include <algorithm>

namespace gearshift::ps {

AtOnce::AtOnce(int few, std::size_t answers)
    : few_(few), answers_(std::max<std::size_t>(answers, 1)) {}

double AtOnce::rate() const {
  return static_cast<double>(counted_) / std::max(base::to_seconds(took_), 1e-9);
}

void AtOnce::left(base::Duration busy) {
  took_ += busy;
  ++counted_;
  const bool hopeless = trial_ && counted_ >= std::max<std::size_t>(answers_ / 4, 4) &&
                        rate() < kMuchSlower * rates_[in_turns_ ? 0 : 1];
  if (counted_ < answers_ && !hopeless) return;
  rates_[in_turns_ ? 1 : 0] = rate();
  if (trial_) {
    decide(rates_[1] >= kAsFast * rates_[0]);
  } else if (--steps_ == 0) {
    trial_ = true;
    go_over(!in_turns_);
  } else {
    go_over(in_turns_);
  }
}

/// Where the link is hardly ever busy, turns cost nothing.
void AtOnce::left_idle() {
  if (trial_ && ++spare_ >= answers_) decide(true);
}

void AtOnce::decide(bool in_turns) {
  pause_ = in_turns == in_turns_ ? kSteps : std::min(2 * pause_, kMostSteps);
  steps_ = pause_;
  trial_ = false;
  go_over(in_turns);
}

void AtOnce::go_over(bool in_turns) {
  in_turns_ = in_turns;
  spare_ = counted_ = 0;
  took_ = base::Duration(0);
}

}  // namespace gearshift::ps
