#include "sim/steady_state.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace gearshift::sim {
namespace {

/// Seconds by which times may differ: SimGrid's events and the clock are rounded to nanoseconds.
constexpr double kTick = 2e-9;
/// The same for sums over the messages of a step.
constexpr double kManyTicks = 1e-6;

bool near(double a, double b, double tolerance) { return std::abs(a - b) <= tolerance; }

double change(double Milestone::*sum, const Milestone& to, const Milestone& from) {
  return to.*sum - from.*sum;
}

}  // namespace

SteadyState::SteadyState(int workers, int steps, Regularity regularity, double tolerance,
                         std::function<NetworkMilestone()> network)
    : workers_(workers),
      steps_(steps),
      regularity_(regularity),
      network_(std::move(network)),
      ended_(static_cast<std::size_t>(workers)) {
  // What takes longer to find than the training does is not looked for.
  const auto unit = static_cast<int>(std::min<std::int64_t>(regularity.period, steps));
  for (int n = 1; n <= kPeriods && 2 * n * unit + kMore < steps; ++n) {
    candidates_.push_back({n * unit});
  }
  const int rough = (kRoughPeriod + unit - 1) / unit * unit;
  if (tolerance > 0 && 2 * rough + kMore < steps) candidates_.push_back({rough, tolerance});
  for (const Candidate& candidate : candidates_) longest_ = std::max(longest_, candidate.period);
}

bool SteadyState::begin(int step) {
  begun_ = std::max(begun_, step);
  return step <= steps_;
}

int SteadyState::number(int step) const {
  return skip_ && step > skip_->after ? step + skip_->periods * skip_->period : step;
}

void SteadyState::end(int rank, const Milestone& milestone) {
  if (skip_ || candidates_.empty()) return;
  const int step = ++ended_[static_cast<std::size_t>(rank)];
  while (first_row_ + static_cast<int>(rows_.size()) <= step) {
    rows_.emplace_back().workers.resize(static_cast<std::size_t>(workers_));
  }
  Row& here = rows_[static_cast<std::size_t>(step - first_row_)];
  here.workers[static_cast<std::size_t>(rank)] = milestone;
  if (++here.ended < workers_) return;
  here.network = network_();
  look(step);
  // Of the longest candidate, what `decide` and the changes of its first step ask for.
  const int kept = 2 * longest_ + kMore + 1;
  while (!skip_ && step - first_row_ >= kept) {
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
  const double tolerance = std::max(kTick, candidate.tolerance * candidate.seconds);
  return near(now.begin - then.begin, candidate.seconds, tolerance) &&
         near(now.computed - then.computed, candidate.seconds, tolerance) &&
         near(now.end - then.end, candidate.seconds, tolerance) &&
         (candidate.tolerance > 0 || counts_repeat(step, candidate.period, rank));
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
  // A bucket that empties more slowly than that makes steps longer by no more.
  const double tolerance = std::max(10 * kTick, candidate.tolerance * candidate.seconds);
  if (!std::equal(now.refills.begin(), now.refills.end(), then.refills.begin(),
                  [&](double a, double b) { return near(a, b, tolerance); })) {
    return false;
  }
  if (candidate.tolerance > 0) return true;
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
  skip_ =
      Skip{step, candidate.period, periods, seconds / (seen * workers_), candidate.tolerance > 0};
  steps_ -= periods * candidate.period;
}

void SteadyState::extend(SimulationResult& result) const {
  result.simulated_steps = steps_;
  if (!skip_) return;
  const int after = skip_->after;
  result.skipped = SkippedSteps{after + 1, after + skip_->periods * skip_->period, skip_->period,
                                skip_->roughly};
  for (WorkerResult& worker : result.workers) extend(worker);
  const double times = skip_->periods;
  result.virtual_seconds += times * skip_->seconds;
  const NetworkMilestone& to = row(after).network;
  const NetworkMilestone& from = row(after - skip_->period).network;
  result.messages += static_cast<std::uint64_t>(skip_->periods) * (to.messages - from.messages);
  for (std::size_t i = 0; i < result.links.size(); ++i) {
    result.links[i].bytes += times * (to.carried[i] - from.carried[i]);
  }
}

void SteadyState::extend(WorkerResult& worker) const {
  const int after = skip_->after, period = skip_->period;
  const auto rank = static_cast<std::size_t>(worker.rank);
  const auto shifted = [&](const StepTimes& times, int periods) {
    const double later = periods * skip_->seconds;
    return StepTimes{times.begin + later, times.computed + later, times.end + later};
  };
  std::vector<StepTimes> steps(worker.steps.begin(), worker.steps.begin() + after);
  for (int i = 0; i < skip_->periods * period; ++i) {
    const auto model = static_cast<std::size_t>(after - period + i % period);
    steps.push_back(shifted(worker.steps[model], 1 + i / period));
  }
  for (std::size_t i = static_cast<std::size_t>(after); i < worker.steps.size(); ++i) {
    steps.push_back(shifted(worker.steps[i], skip_->periods));
  }
  worker.steps = std::move(steps);
  for (int step = after - period + 1; step <= after; ++step) {
    const auto& staleness = row(step).workers[rank].staleness;
    if (staleness) worker.staleness[*staleness] += skip_->periods;
  }
  const Milestone& to = row(after).workers[rank];
  const Milestone& from = row(after - period).workers[rank];
  const auto count = static_cast<std::uint64_t>(skip_->periods);
  worker.exposed_seconds += skip_->periods * change(&Milestone::exposed_seconds, to, from);
  worker.communication_seconds +=
      skip_->periods * change(&Milestone::communication_seconds, to, from);
  worker.bytes_sent += count * (to.bytes_sent - from.bytes_sent);
  worker.messages_sent += count * (to.messages_sent - from.messages_sent);
}

}  // namespace gearshift::sim
