#include "sim/paced_worker.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "sim/learner_call.h"

namespace gearshift::sim {

PacedWorker::PacedWorker(base::Scheduler& scheduler, strategy::Replica& replica,
                         strategy::LocalOptimizer* optimizer, Options options)
    : scheduler_(scheduler),
      replica_(replica),
      optimizer_(optimizer),
      options_(std::move(options)),
      order_(options_.workload->parameters.size()) {
  learnt_.loss = std::nan("");
  learnt_.hypers = options_.hypers;
  const auto& parameters = options_.workload->parameters;
  std::iota(order_.begin(), order_.end(), 0U);
  // Of those that become ready together, the later one in the model comes first, as in backward.
  std::stable_sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
    if (parameters[a].ready_seconds != parameters[b].ready_seconds) {
      return parameters[a].ready_seconds < parameters[b].ready_seconds;
    }
    return a > b;
  });
}

base::Status PacedWorker::run(base::TimePoint start) {
  start_ = start;
  exposed_before_ = result_.exposed_seconds;
  communication_before_ = result_.communication_seconds;
  base::Status status;
  const auto begins = [this](int step) {
    return options_.begins ? options_.begins(step) : step <= options_.steps;
  };
  for (int k = options_.first_step; status && begins(k); ++k) {
    status = step(k);
    if (status && options_.on_step) options_.on_step(k);
  }
  return status;
}

void PacedWorker::span(const char* track, const char* name, base::TimePoint begin) {
  const base::TimePoint end = scheduler_.now();
  if (options_.on_span && end > begin) {
    options_.on_span({result_.rank, track, name, seconds(begin), seconds(end)});
  }
}

base::Status PacedWorker::step(int step) {
  const Workload& workload = *options_.workload;
  const double factor = options_.pace->factor(step);
  const base::TimePoint begin = scheduler_.now();
  StepTimes times;
  times.begin = seconds(begin);

  GEARSHIFT_RETURN_IF_ERROR(learn(step));
  const base::TimePoint forward_end = begin + base::from_seconds(workload.forward_seconds * factor);
  scheduler_.sleep_until(forward_end);
  span("computation", "forward", begin);
  GEARSHIFT_RETURN_IF_ERROR(backward(forward_end, factor));
  times.computed = seconds(scheduler_.now());

  std::vector<bool> present = learnt_.present;
  if (present.empty()) present.resize(workload.parameters.size(), true);
  base::TimePoint waiting = scheduler_.now();
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<bool> reduced, replica_.backward_end(present, true));
  span("computation", "wait for gradients", waiting);
  if (!replica_.uses_server()) {
    const base::TimePoint updating = scheduler_.now();
    if (optimizer_ != nullptr) {
      GEARSHIFT_RETURN_IF_ERROR(optimizer_->apply(replica_, reduced, learnt_.hypers));
    }
    scheduler_.sleep_until(updating + base::from_seconds(workload.optimizer_seconds * factor));
    span("computation", "optimizer", updating);
  }
  waiting = scheduler_.now();
  strategy::StepInput input;
  input.loss = learnt_.loss;
  input.epoch = options_.steps_per_epoch > 0 ? (step - 1) / options_.steps_per_epoch : 0;
  input.hypers = learnt_.hypers;
  const double before = replica_.stats().mean_staleness;
  GEARSHIFT_ASSIGN_OR_RETURN(const strategy::StepReport report, replica_.step(input));
  span("computation", "wait for parameters", waiting);
  if (report.switched) switches_.push_back(*report.switched);
  times.end = seconds(scheduler_.now());
  result_.steps.push_back(times);
  note_statistics(before);
  return evaluate(step);
}

/// The parameters stay as they are until the step ends, so it does not matter when, within the
/// step, the gradient is computed.
base::Status PacedWorker::learn(int step) {
  if (options_.learner == nullptr) return {};
  GEARSHIFT_ASSIGN_OR_RETURN(learnt_, call_learner([&] {
                               return options_.learner->gradient(result_.rank, step, replica_);
                             }));
  const std::size_t flags = learnt_.present.size();
  const std::size_t parameters = options_.workload->parameters.size();
  if (flags != 0 && flags != parameters) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "the learner says of " + std::to_string(flags) +
                           " parameters whether they have a gradient, and the workload has " +
                           std::to_string(parameters));
  }
  if (learnt_.hypers.empty()) learnt_.hypers = options_.hypers;
  loss_sum_ += learnt_.loss;
  ++loss_count_;
  return {};
}

bool PacedWorker::is_present(std::uint32_t parameter) const {
  return learnt_.present.empty() || learnt_.present[parameter];
}

base::Status PacedWorker::evaluate(int step) {
  const int every = options_.evaluate_every;
  const bool due = every > 0 && (step % every == 0 || step == options_.steps);
  if (options_.learner == nullptr || !due) return {};
  CurvePoint point;
  point.seconds = result_.steps.back().end;
  point.step = step;
  point.loss = loss_sum_ / loss_count_;
  GEARSHIFT_ASSIGN_OR_RETURN(point.metric,
                             call_learner([&] { return options_.learner->evaluate(replica_); }));
  loss_sum_ = loss_count_ = 0;
  curve_.push_back(point);
  return {};
}

base::Status PacedWorker::backward(base::TimePoint begin, double factor) {
  const Workload& workload = *options_.workload;
  GEARSHIFT_RETURN_IF_ERROR(replica_.backward_begin(workload.batch_size));
  for (const std::uint32_t p : order_) {
    if (!is_present(p)) continue;  // nothing says, before backward ends, that it has no gradient
    scheduler_.sleep_until(begin +
                           base::from_seconds(workload.parameters[p].ready_seconds * factor));
    GEARSHIFT_RETURN_IF_ERROR(replica_.ready(p));
  }
  scheduler_.sleep_until(begin + base::from_seconds(workload.backward_seconds * factor));
  span("computation", "backward", begin);
  return {};
}

/// After a step that is complete: what one that failed waited for belongs to none. Staleness is
/// that of the latest push, from the statistics before and after it.
void PacedWorker::note_statistics(double mean_before) {
  const strategy::Stats stats = replica_.stats();
  result_.exposed_seconds = exposed_before_ + stats.exposed_seconds;
  result_.communication_seconds = communication_before_ + stats.communication_seconds;
  std::optional<std::int64_t> staleness;
  if (stats.pushes != pushes_) {
    const double sum = stats.mean_staleness * static_cast<double>(stats.pushes);
    staleness = std::llround(sum - mean_before * static_cast<double>(pushes_));
    ++result_.staleness[*staleness];
    pushes_ = stats.pushes;
  }
  if (!options_.on_milestone) return;
  Milestone milestone;
  milestone.times = result_.steps.back();
  milestone.exposed_seconds = result_.exposed_seconds;
  milestone.communication_seconds = result_.communication_seconds;
  milestone.staleness = staleness;
  options_.on_milestone(milestone);
}

}  // namespace gearshift::sim
