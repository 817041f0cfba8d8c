#include <utility>

#include "gearshift/base/log.h"
#include "strategy/replica_impl.h"
#include "strategy/state_sharing.h"
#include "strategy/stopwatch.h"

namespace gearshift::strategy {

base::Status ReplicaImpl::open_local() {
  LocalPhase::Options options;
  options.config = std::get<LocalSgd>(decider_.phase());
  options.alone = environment_.workers_count == 1;
  options.phantom = options_.phantom;
  options.step = step_;
  options.last_step = options_.strategy.total_steps;
  staged_ = false;
  GEARSHIFT_ASSIGN_OR_RETURN(local_,
                             LocalPhase::begin(scheduler_, plan_, *memory_, std::move(options)));
  return {};
}

/// Behind a round, so parameters are equal. The optimizers' states are not, and what follows needs
/// one: that of rank 0.
base::Status ReplicaImpl::close_local() {
  local_.reset();
  const base::Rank root(0);
  std::vector<ps::StateEntry> state;
  if (control_.rank() == root) {
    GEARSHIFT_ASSIGN_OR_RETURN(state, options_.bridge->export_state());
  }
  GEARSHIFT_ASSIGN_OR_RETURN(
      state, broadcast_state(control_, plan_.parameters, std::move(state), root, options_.phantom));
  // Also at the root, whose optimizer may have it in another form (dtypes, numbers) than travels.
  return options_.bridge->import_state(std::move(state));
}

bool ReplicaImpl::ends_in_round(std::int64_t step) const {
  return local_->is_due(step) || decider_.is_overdue(step);
}

bool ReplicaImpl::averages_next() const {
  return local_ != nullptr && (decider_.asks() || ends_in_round(step_ + 1));
}

base::Result<StepReport> ReplicaImpl::step_local(const StepInput& input) {
  // A policy by losses compares those of epochs, which a round must not mix, and wants to see each.
  const bool new_epoch = decider_.asks() && (input.epoch != epoch_ || ask_soon_);
  ask_soon_ = false;
  Losses ended{std::exchange(pending_loss_, 0), std::exchange(pending_samples_, 0), epoch_};
  note_own_step(input);
  if (!new_epoch) {
    pending_loss_ += std::exchange(ended.sum, 0);
    pending_samples_ += std::exchange(ended.samples, 0);
  }
  staged_ = false;
  local_->note_step(input.skip ? 0 : samples_, input.skip);
  // Before the round: ranks that are there already wait for as long as anyone makes steps.
  environment_.workers->progress().set_step(base::Step(step_));
  StepReport report{
      .step = step_, .seen = step_, .seen_of_others = local_->last_round(), .skipped = input.skip};
  if (!ends_in_round(step_) && !new_epoch) return report;
  const bool local_was_taken = local_->taken() != 0;
  GEARSHIFT_ASSIGN_OR_RETURN(const RoundResult round,
                             average(false, new_epoch ? ended : pending_losses(), {}));
  if (!round.in_step) return out_of_step(round);
  if (!round.agreed && (local_was_taken || !local_->is_plain())) {  // it may have written nothing
    return base::Error(base::ErrorCode::kMismatch,
                       "what was written to the parameters after the last round of local_sgd, or "
                       "the optimizer settings of this step, differ between ranks: every rank must "
                       "write the same (load the same checkpoint, ...)");
  }
  if (!round.agreed) return hypers_differ();
  report.averaged = true;
  report.seen_of_others = step_;
  return report;
}

/// The control values of a round. Ranks come to it as late as their steps since the last one have
/// taken, which is bounded as for ranks that have run out of batches.
base::Result<RoundResult> ReplicaImpl::meet_for_round(bool joined, const Losses& losses) {
  std::optional<Vigil> vigil;
  RoundInput input;
  input.patience = patience(vigil);
  input.samples = local_->samples();
  input.joined = joined;
  // An epoch is over when its last losses are known.
  input.vote = !joined && decider_.vote(step_, losses.samples > 0 ? losses.epoch : epoch_);
  input.loss_sum = losses.sum;
  input.loss_samples = losses.samples;
  input.digest = static_cast<std::uint32_t>(
      (hypers_digest_ + local_->taken() % RoundInput::kDigests) % RoundInput::kDigests);
  input.step = step_;
  return reducer_->meet(input);
}

/// One round. `before` is called before the memory of the gradients is written to, if it is.
base::Result<RoundResult> ReplicaImpl::average(bool joined, const Losses& losses,
                                               const std::function<void()>& before) {
  const Stopwatch watch(scheduler_, exposed_seconds_);
  GEARSHIFT_ASSIGN_OR_RETURN(RoundResult round, meet_for_round(joined, losses));
  const bool nothing = round.joined == environment_.workers_count && round.samples == 0;
  if (nothing && !local_->is_idle()) {
    local_->undo_steps();  // without samples they teach nothing
  } else if (!local_->is_idle()) {
    if (before) before();
    GEARSHIFT_ASSIGN_OR_RETURN(
        round, reducer_->exchange([this](std::uint32_t bucket) { local_->take_change(bucket); }));
    GEARSHIFT_RETURN_IF_ERROR(local_->apply());
  }
  local_->restart(step_);
  absorb(round, losses.epoch);
  return round;
}

ReplicaImpl::Losses ReplicaImpl::pending_losses() {
  return {std::exchange(pending_loss_, 0), std::exchange(pending_samples_, 0), epoch_};
}

base::Result<Replica::JoinReport> ReplicaImpl::join_local(std::function<void()> before) {
  const auto once = [&] {
    if (before) std::exchange(before, nullptr)();
  };
  while (true) {
    // The first time with what this rank has learnt since the last round, then without any weight.
    GEARSHIFT_ASSIGN_OR_RETURN(const RoundResult round, average(true, pending_losses(), once));
    if (round.joined == environment_.workers_count) break;
    behind_ = behind_ || round.step > step_;
  }
  staged_ = false;   // a gradient from before is one of other parameters
  ask_soon_ = true;  // no step may have seen the end of this epoch
  const std::uint64_t hash = local_->is_idle() ? 0 : hash_of_parameters() ^ local_->hash_of_state();
  GEARSHIFT_ASSIGN_OR_RETURN(Level level, end_rounds(hash));
  GEARSHIFT_RETURN_IF_ERROR(broadcast_buffers(level.report.root));
  if (!level.same) GEARSHIFT_RETURN_IF_ERROR(take_local(level.report.root));
  level.report.steps_differ = level.report.steps_differ || !level.same;
  local_->restart(step_);
  return level.report;
}

/// Parameters and the outer optimizer's state of root for all. A rank without batches has no part
/// in what rounds compare.
base::Status ReplicaImpl::take_local(base::Rank root) {
  warn_of_other_parameters(root);
  GEARSHIFT_RETURN_IF_ERROR(broadcast_model(root));
  local_->take_parameters();
  std::vector<ps::StateEntry> state;
  if (control_.rank() == root) {
    GEARSHIFT_ASSIGN_OR_RETURN(state, local_->state());
  }
  GEARSHIFT_ASSIGN_OR_RETURN(
      state, broadcast_state(control_, plan_.parameters, std::move(state), root, options_.phantom));
  return local_->set_state(state);
}

/// Also of a job that is over: for a last checkpoint.
base::Result<std::vector<ps::StateEntry>> ReplicaImpl::fetch_outer_state() {
  if (!local_) return std::vector<ps::StateEntry>(plan_.parameters.size());
  return local_->state();
}

base::Status ReplicaImpl::store_outer_state(const std::vector<ps::StateEntry>& state) {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  GEARSHIFT_RETURN_IF_ERROR(check_state(state));
  return local_ ? local_->set_state(state) : base::Status();
}

base::Status ReplicaImpl::finish_local() {
  while (true) {
    GEARSHIFT_ASSIGN_OR_RETURN(const RoundResult round, average(true, pending_losses(), {}));
    if (round.joined == environment_.workers_count) break;
  }
  if (memory_->buffers().empty()) return {};
  GEARSHIFT_ASSIGN_OR_RETURN(const base::Rank root, furthest_rank());
  return broadcast_buffers(root);
}

void ReplicaImpl::warn_of_steps_alone() const {
  if (local_->steps() == 0 || environment_.workers_count == 1) return;
  GEARSHIFT_LOG_AT(kWarn, "strategy",
                   "local_sgd: this rank " << environment_.world->rank().value
                                           << " ended the training with " << local_->steps()
                                           << " step(s) since the last round, so its model is not "
                                              "that of the others. Before it is used, call "
                                              "gst.release(model) in Python, Replica::finish in "
                                              "C++, or join at the end of the epoch");
}

}  // namespace gearshift::strategy
