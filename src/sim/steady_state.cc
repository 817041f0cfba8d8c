#include "sim/steady_state.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "sim/mean_estimate.h"
#include "sim/step_filler.h"

namespace gearshift::sim {
namespace {

/// Seconds by which times may differ: SimGrid's events and the clock are rounded to nanoseconds.
constexpr double kTick = 2e-9;
/// The same for sums over the messages of a step.
constexpr double kManyTicks = 1e-6;
/// Standard errors by which the greatest of many differences is hardly off by chance.
constexpr double kManyErrors = 4;

bool near(double a, double b, double tolerance) { return std::abs(a - b) <= tolerance; }

double change(double Milestone::*sum, const Milestone& to, const Milestone& from) {
  return to.*sum - from.*sum;
}

}  // namespace

SteadyState::SteadyState(int workers, int steps, Regularity regularity, Load load, double tolerance,
                         std::function<NetworkMilestone()> network)
    : workers_(workers),
      steps_(steps),
      regularity_(regularity),
      load_(std::move(load)),
      tolerance_(tolerance),
      network_(std::move(network)),
      ended_(static_cast<std::size_t>(workers)),
      next_estimate_(static_cast<int>(std::min<std::int64_t>(regularity.from - 1, steps)) +
                     (regularity.loose ? kLeastKnownLoose : kLeastKnown)) {
  // What takes longer to find than the training does is not looked for.
  const auto unit = static_cast<int>(std::min<std::int64_t>(regularity.period, steps));
  for (int n = 1; n <= kPeriods && 2 * n * unit + kMore < steps && !regularity.varies; ++n) {
    candidates_.push_back({n * unit});
    longest_ = n * unit;
  }
}

bool SteadyState::begin(int step) {
  begun_ = std::max(begun_, step);
  return step <= steps_;
}

int SteadyState::number(int step) const {
  return skip_ && step > skip_->after ? step + skip_->count : step;
}

void SteadyState::end(int rank, const Milestone& milestone) {
  if (skip_ && !skip_->apart) return;
  const int step = ++ended_[static_cast<std::size_t>(rank)];
  while (first_row_ + static_cast<int>(rows_.size()) <= step) {
    rows_.emplace_back().workers.resize(static_cast<std::size_t>(workers_));
  }
  StepRow& here = rows_[static_cast<std::size_t>(step - first_row_)];
  here.workers[static_cast<std::size_t>(rank)] = milestone;
  if (++here.ended < workers_ || skip_) return;
  here.network = network_();
  here.done = std::accumulate(ended_.begin(), ended_.end(), std::int64_t{0});
  look(step);
  const bool estimates = tolerance_ > 0 && 2 * step <= steps_;
  // Of the longest candidate, what `decide` and the changes of its first step ask for.
  const int kept = 2 * longest_ + kMore + 1;
  while (!skip_ && !estimates && step - first_row_ >= kept) {
    rows_.pop_front();
    ++first_row_;
  }
}

/// All workers have ended the step.
void SteadyState::look(int step) {
  for (Candidate& candidate : candidates_) {
    const int before = step - candidate.period;
    // What changed in a step is known from the one before.
    if (before < regularity_.from || before <= first_row_) continue;
    if (candidate.run > 0 && !repeats(step, candidate)) candidate.run = 0;
    if (candidate.run == 0) {
      candidate.seconds = row(step).workers[0].times.end - row(before).workers[0].times.end;
      if (!repeats(step, candidate)) continue;
    }
    if (++candidate.run >= candidate.period + kMore) return decide(step, candidate);
  }
  if (tolerance_ > 0 && step > regularity_.from) estimate(step);
}

bool SteadyState::repeats(int step, const Candidate& candidate) const {
  for (std::size_t rank = 0; rank < row(step).workers.size(); ++rank) {
    if (!repeats(step, candidate, rank)) return false;
  }
  return network_repeats(step, candidate);
}

bool SteadyState::repeats(int step, const Candidate& candidate, std::size_t rank) const {
  const StepTimes& now = row(step).workers[rank].times;
  const StepTimes& then = row(step - candidate.period).workers[rank].times;
  return near(now.begin - then.begin, candidate.seconds, kTick) &&
         near(now.computed - then.computed, candidate.seconds, kTick) &&
         near(now.end - then.end, candidate.seconds, kTick) &&
         counts_repeat(step, candidate.period, rank);
}

bool SteadyState::counts_repeat(int step, int period, std::size_t rank) const {
  const auto at = [&](int s) -> const Milestone& { return row(s).workers[rank]; };
  const Milestone &now = at(step), &now_from = at(step - 1);
  const Milestone &then = at(step - period), &then_from = at(step - period - 1);
  const auto same_sum = [&](double Milestone::*sum) {
    return near(change(sum, now, now_from), change(sum, then, then_from), kManyTicks);
  };
  return now.bytes_sent - now_from.bytes_sent == then.bytes_sent - then_from.bytes_sent &&
         now.messages_sent - now_from.messages_sent ==
             then.messages_sent - then_from.messages_sent &&
         now.staleness == then.staleness && same_sum(&Milestone::exposed_seconds) &&
         same_sum(&Milestone::communication_seconds);
}

bool SteadyState::network_repeats(int step, const Candidate& candidate) const {
  const NetworkMilestone &now = row(step).network, &now_from = row(step - 1).network;
  const NetworkMilestone &then = row(step - candidate.period).network,
                         &then_from = row(step - candidate.period - 1).network;
  if (!std::equal(now.refills.begin(), now.refills.end(), then.refills.begin(),
                  [&](double a, double b) { return near(a, b, 10 * kTick); })) {
    return false;
  }
  if (now.messages - now_from.messages != then.messages - then_from.messages) return false;
  for (std::size_t i = 0; i < now.carried.size(); ++i) {
    if (now.carried[i] - now_from.carried[i] != then.carried[i] - then_from.carried[i])
      return false;
  }
  return true;
}

void SteadyState::decide(int step, const Candidate& candidate) {
  const int periods = (steps_ - begun_) / candidate.period;
  if (periods < 1) return;
  // Roundings even out over workers, and over the periods that were seen.
  const int seen = 1 + (candidate.run - 1) / candidate.period;
  double seconds = 0;
  for (std::size_t rank = 0; rank < row(step).workers.size(); ++rank) {
    seconds += row(step).workers[rank].times.end -
               row(step - seen * candidate.period).workers[rank].times.end;
  }
  skip_ = Skip{.after = step,
               .period = candidate.period,
               .count = periods * candidate.period,
               .seconds = seconds / (seen * workers_)};
  steps_ -= skip_->count;
}

/// Now and then: the interval is one for a single question, and this is not the only one.
void SteadyState::estimate(int step) {
  double seconds = 0;
  for (const Milestone& worker : row(step).workers) {
    seconds += worker.times.end - worker.times.begin;
  }
  means_.push_back(seconds / workers_);
  const auto unit = static_cast<int>(regularity_.period);
  const int count = (steps_ - begun_) / unit * unit;
  if (step < next_estimate_ || count < step) return;
  // What may be about to repeat exactly gets the time for it.
  if (std::any_of(candidates_.begin(), candidates_.end(),
                  [](const Candidate& candidate) { return candidate.run > 0; })) {
    return;
  }
  const auto known = static_cast<int>(means_.size());
  next_estimate_ = step + static_cast<int>(std::ceil(known * kGrowth));
  const auto found = estimate_mean(means_, known + steps_ - step, unit,
                                   regularity_.loose ? kLeastLoose : kLeastWindow);
  if (!found) return;
  const double half_width = found->half_width + network_drift(step, found->window);
  if (half_width > tolerance_ || !is_typical(step, found->window)) return;
  const bool apart = !keeps_together(step, found->window);
  // Links' bytes are those of the whole training then, which must have been the same all the time.
  if (apart && (!regularity_.apart || regularity_.from > 1)) return;
  skip_ = Skip{.after = step,
               .period = found->window,
               .count = count,
               .half_width = half_width,
               .estimated = true,
               .apart = apart};
  steps_ -= skip_->count;
}

/// Who sends more than a token bucket lets through for long takes longer by that share in the end.
double SteadyState::network_drift(int step, int window) const {
  const auto &now = row(step).network.refills, &then = row(step - window).network.refills;
  const double seconds = row(step).workers[0].times.end - row(step - window).workers[0].times.end;
  double most = 0;
  for (std::size_t i = 0; i < now.size(); ++i) {
    most = std::max(most, std::abs(now[i] - then[i]) / seconds);
  }
  return most;
}

/// Whether computation takes as long in the window as in what is left out: what is rare may be
/// missing in the one.
bool SteadyState::is_typical(int step, int window) const {
  const auto near_in = [&](const std::vector<double>& factors) {
    if (factors.empty()) return true;
    const auto middle = factors.begin() + step, end = factors.begin() + steps_;
    const double here = std::accumulate(middle - window, middle, 0.0) / window;
    const double later = std::accumulate(middle, end, 0.0) / static_cast<double>(end - middle);
    return near(here, later, tolerance_ * later);
  };
  return near_in(load_.mean) && near_in(load_.most);
}

/// Whether differences between the workers' times in the window are small, or may be chance.
bool SteadyState::keeps_together(int step, int window) const {
  std::vector<double> means, errors;
  for (std::size_t rank = 0; rank < row(step).workers.size(); ++rank) {
    double sum = 0, squares = 0;
    for (int s = step - window + 1; s <= step; ++s) {
      const StepTimes& times = row(s).workers[rank].times;
      sum += times.end - times.begin;
      squares += (times.end - times.begin) * (times.end - times.begin);
    }
    means.push_back(sum / window);
    const double variance = std::max(squares / window - means.back() * means.back(), 0.0);
    errors.push_back(std::sqrt(variance / window));
  }
  const double all = std::accumulate(means.begin(), means.end(), 0.0) / workers_;
  for (std::size_t i = 0; i < means.size(); ++i) {
    if (!near(means[i], all, std::max(tolerance_ * all, kManyErrors * errors[i]))) return false;
  }
  return true;
}

void SteadyState::extend(SimulationResult& result) const {
  result.simulated_steps = steps_;
  if (!skip_) return;
  const int after = skip_->after;
  result.skipped = SkippedSteps{after + 1, after + skip_->count, skip_->period, skip_->estimated,
                                skip_->half_width};
  if (skip_->estimated) {
    fill(result, rows_, Filling{after, skip_->period, skip_->count, skip_->apart});
  } else {
    extend_periods(result);
  }
}

void SteadyState::extend_periods(SimulationResult& result) const {
  const int after = skip_->after, periods = skip_->count / skip_->period;
  for (WorkerResult& worker : result.workers) extend_periods(worker);
  const double times = periods;
  result.virtual_seconds += times * skip_->seconds;
  const NetworkMilestone& to = row(after).network;
  const NetworkMilestone& from = row(after - skip_->period).network;
  result.messages += static_cast<std::uint64_t>(periods) * (to.messages - from.messages);
  for (std::size_t i = 0; i < result.links.size(); ++i) {
    result.links[i].bytes += times * (to.carried[i] - from.carried[i]);
  }
}

void SteadyState::extend_periods(WorkerResult& worker) const {
  const int after = skip_->after, period = skip_->period, times = skip_->count / period;
  const auto rank = static_cast<std::size_t>(worker.rank);
  const auto shifted = [&](const StepTimes& step, int periods) {
    const double later = periods * skip_->seconds;
    return StepTimes{step.begin + later, step.computed + later, step.end + later};
  };
  std::vector<StepTimes> steps(worker.steps.begin(), worker.steps.begin() + after);
  for (int i = 0; i < skip_->count; ++i) {
    const auto model = static_cast<std::size_t>(after - period + i % period);
    steps.push_back(shifted(worker.steps[model], 1 + i / period));
  }
  for (std::size_t i = static_cast<std::size_t>(after); i < worker.steps.size(); ++i) {
    steps.push_back(shifted(worker.steps[i], times));
  }
  worker.steps = std::move(steps);
  for (int step = after - period + 1; step <= after; ++step) {
    const auto& staleness = row(step).workers[rank].staleness;
    if (staleness) worker.staleness[*staleness] += times;
  }
  const Milestone& to = row(after).workers[rank];
  const Milestone& from = row(after - period).workers[rank];
  const auto count = static_cast<std::uint64_t>(times);
  worker.exposed_seconds += times * change(&Milestone::exposed_seconds, to, from);
  worker.communication_seconds += times * change(&Milestone::communication_seconds, to, from);
  worker.bytes_sent += count * (to.bytes_sent - from.bytes_sent);
  worker.messages_sent += count * (to.messages_sent - from.messages_sent);
}

}  // namespace gearshift::sim
