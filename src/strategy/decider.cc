#include "strategy/decider.h"

#include <cmath>
#include <mutex>
#include <string_view>
#include <utility>

#include "gearshift/base/serial.h"
#include "strategy/phases.h"

namespace gearshift::strategy {

using Lock = std::lock_guard<base::Monitor>;

Decider::Decider(base::Scheduler& scheduler, Strategy strategy)
    : strategy_(std::move(strategy)), monitor_(scheduler.make_monitor()) {}

Phase Decider::phase() const {
  Lock lock(*monitor_);
  const std::vector<Phase> phases = phases_of(strategy_);
  return in_second_ ? phases.back() : phases.front();
}

void Decider::advance(std::int64_t step) {
  Lock lock(*monitor_);
  phase_begin_ = step;
  earlier_epochs_ = history_.finished().size();
  in_second_ = !in_second_;
  wanted_ = false;
  inputs_.clear();
  staleness_sum_ = 0;
  commits_ = 0;
}

Policy* Decider::policy() const {
  const auto* s = std::get_if<StrategySwitch>(&strategy_.kind);
  if (s == nullptr) return nullptr;
  return in_second_ ? s->back.get() : s->policy.get();
}

std::optional<std::int64_t> Decider::known_step() const {
  Lock lock(*monitor_);
  const Policy* p = policy();
  return p == nullptr ? std::nullopt : p->known_step(strategy_.total_steps);
}

bool Decider::is_overdue(std::int64_t step) const {
  const std::optional<std::int64_t> due = known_step();
  Lock lock(*monitor_);
  return due && phase_begin_ < *due && *due <= step;
}

bool Decider::asks() const {
  Lock lock(*monitor_);
  const Policy* p = policy();
  return p != nullptr && !p->known_step(strategy_.total_steps);
}

Metrics Decider::metrics(std::int64_t step, std::int64_t epoch) const {
  Metrics m;
  m.step = step;
  m.total_steps = strategy_.total_steps;
  m.epoch = epoch;
  m.loss = history_.latest();
  m.epoch_losses = history_.finished();
  m.earlier_epochs = earlier_epochs_;
  const auto* s = std::get_if<StrategySwitch>(&strategy_.kind);
  if (s != nullptr) m.strategy = strategy::to_string(in_second_ ? s->then : s->start);
  m.staleness = commits_ > 0 ? staleness_sum_ / static_cast<double>(commits_) : 0;
  return m;
}

void Decider::add_reduced_loss(std::int64_t epoch, double loss_sum, double samples) {
  Lock lock(*monitor_);
  history_.close_before(epoch);
  history_.add(epoch, loss_sum, samples);
}

bool Decider::vote(std::int64_t step, std::int64_t epoch) {
  std::unique_lock<base::Monitor> lock(*monitor_);
  Policy* p = policy();
  if (p == nullptr) return false;
  if (wanted_) return true;
  if (const std::optional<std::int64_t> due = p->known_step(strategy_.total_steps)) {
    // A rank may jump over the step when it takes over another's state at a join.
    wanted_ = phase_begin_ < *due && *due <= step;
    inputs_ = "step " + std::to_string(step) + ", due after " + std::to_string(*due);
    return wanted_;
  }
  // The last loss of an epoch is reduced with the first step of the next.
  history_.close_before(epoch);
  wanted_ = ask(*p, metrics(step, epoch), lock);
  return wanted_;
}

bool Decider::ask(Policy& policy, const Metrics& seen, std::unique_lock<base::Monitor>& lock) {
  lock.unlock();
  Verdict verdict = policy.decide(seen);
  lock.lock();
  if (!verdict.inputs.empty()) inputs_ = std::move(verdict.inputs);
  return verdict.switch_now;
}

std::optional<std::int64_t> Decider::on_commit(const ps::CommitInfo& info) {
  std::unique_lock<base::Monitor> lock(*monitor_);
  staleness_sum_ += static_cast<double>(info.staleness);
  ++commits_;
  if (!std::isnan(info.loss)) {
    history_.add(info.epoch, info.loss * info.samples, info.samples);
  }
  history_.set_latest(info.mean_loss);
  history_.close_before(info.earliest_epoch);
  Policy* p = policy();
  if (p == nullptr || wanted_ || info.highest_step <= seen_step_) return std::nullopt;
  if (p->known_step(strategy_.total_steps)) return std::nullopt;  // every rank leaves by itself
  seen_step_ = info.highest_step;
  wanted_ = ask(*p, metrics(info.highest_step, info.epoch), lock);
  if (!wanted_) return std::nullopt;
  // A worker that was answered for highest_step already learns of it one step later.
  return info.highest_step + 1;
}

std::string Decider::policy_name() const {
  Lock lock(*monitor_);
  const Policy* p = policy();
  return p == nullptr ? "" : p->name();
}

std::string Decider::inputs() const {
  Lock lock(*monitor_);
  return inputs_;
}

double Decider::latest_loss() const {
  Lock lock(*monitor_);
  return history_.latest();
}

std::vector<std::byte> Decider::pack_history() const {
  Lock lock(*monitor_);
  base::Writer writer;
  writer.put(wanted_).put(std::string_view(inputs_)).put_bytes(history_.pack());
  return writer.take();
}

base::Status Decider::unpack_history(const std::vector<std::byte>& bytes) {
  base::Reader reader(bytes);
  const bool wanted = reader.get<std::uint8_t>() != 0;
  std::string inputs = reader.get_string();
  const base::ConstBytes history = reader.get_bytes();
  GEARSHIFT_RETURN_IF_ERROR(reader.status("loss history"));
  Lock lock(*monitor_);
  GEARSHIFT_RETURN_IF_ERROR(history_.unpack({history.begin(), history.end()}));
  wanted_ = wanted;
  inputs_ = std::move(inputs);
  return {};
}

}  // namespace gearshift::strategy
