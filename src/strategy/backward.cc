#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <sstream>

#include "gearshift/kernels/reduce.h"
#include "strategy/replica_impl.h"
#include "strategy/stopwatch.h"

namespace gearshift::strategy {
namespace {

/// 0: nothing given, which goes with nothing given.
std::uint32_t digest_of(const ps::HyperValues& hypers) {
  if (hypers.empty()) return 0;
  return static_cast<std::uint32_t>(kernels::hash64(base::bytes_of(std::span(hypers))) %
                                    RoundInput::kDigests);
}

base::Status bad_index(std::uint32_t index) {
  return base::Error(base::ErrorCode::kInvalidArgument,
                     "there is no parameter " + std::to_string(index));
}

}  // namespace

void ReplicaImpl::open_round() {
  round_open_ = true;
  settled_ = false;
  std::fill(is_ready_.begin(), is_ready_.end(), false);
  for (std::size_t b = 0; b < plan_.buckets.size(); ++b) {
    missing_[b] = static_cast<std::uint32_t>(plan_.buckets[b].entries.size());
  }
  if (server_ || local_) return;
  RoundInput input;
  input.samples = samples_;
  input.vote = decider_.vote(step_ + 1, epoch_);
  input.loss_sum = pending_loss_;
  input.loss_samples = pending_samples_;
  input.digest = digest_of_round();
  input.step = step_;
  input.rounds = rounds_;
  pending_loss_ = pending_samples_ = 0;
  reducer_->begin(input);
}

/// Under All-Reduce: what ranks must have in common when a round begins.
std::uint32_t ReplicaImpl::digest_of_round() const {
  if (!compares_next_ || options_.phantom || environment_.workers_count == 1) return hypers_digest_;
  return static_cast<std::uint32_t>((hypers_digest_ + hash_of_parameters() % RoundInput::kDigests) %
                                    RoundInput::kDigests);
}

base::Status ReplicaImpl::backward_begin(double samples) {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (!(samples >= 0) || !std::isfinite(samples)) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "the number of samples must be finite and not negative");
  }
  samples_ = samples;
  if (!round_open_) open_round();
  return {};
}

base::Status ReplicaImpl::ready(std::uint32_t index) {
  if (index >= plan_.parameters.size()) return bad_index(index);
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (!round_open_) open_round();
  if (is_ready_[index]) return {};
  is_ready_[index] = true;
  const std::uint32_t bucket = plan_.bucket_of[index];
  if (--missing_[bucket] == 0) {
    close(bucket, std::vector<bool>(plan_.buckets[bucket].entries.size(), true));
  }
  return {};
}

void ReplicaImpl::close(std::uint32_t bucket, const std::vector<bool>& present) {
  if (local_) return;  // gradients stay here
  if (!server_) {
    reducer_->close_bucket(bucket, present);
    return;
  }
  if (!sending_since_) sending_since_ = scheduler_.now();
  comm_->post([this, bucket, settled = settled_] { return stage(bucket, settled); }, false);
}

base::Status ReplicaImpl::stage(std::uint32_t bucket, bool settled) {
  const base::Bytes gradient = memory_->gradients(bucket);
  if (gradient.empty()) return {};  // no shard owns a part of nothing
  // Before it is sent, so that whatever is written meanwhile is found.
  if (!settled) staged_hashes_[bucket] = kernels::hash64(gradient);
  return server_->client().stage(bucket, gradient);
}

base::Result<std::vector<bool>> ReplicaImpl::backward_end(const std::vector<bool>& present,
                                                          bool settled) {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (present.size() != plan_.parameters.size()) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "backward_end needs one flag per parameter");
  }
  if (!round_open_) open_round();
  present_ = present;
  settled_ = settled;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    if (missing_[b] == 0 && !plan_.buckets[b].entries.empty()) continue;  // closed by `ready`
    std::vector<bool> flags;
    for (const Bucket::Entry& entry : plan_.buckets[b].entries) {
      flags.push_back(present[entry.parameter]);
      if (flags.back()) continue;
      base::zero(gradient(entry.parameter));
    }
    close(b, flags);
  }
  round_open_ = false;
  if (server_ || local_) {
    staged_ = true;
    return present_;
  }
  Stopwatch watch(scheduler_, exposed_seconds_);
  base::Result<RoundResult> result = reducer_->end();
  if (!result) return told(result.error());
  latest_round_.joined = result->joined;
  if (!result->in_step) return told(out_of_step(*result));
  if (!result->agreed) return told(ranks_differ());
  compares_next_ = false;
  ++rounds_;
  absorb(*result, epoch_);
  present_ = reducer_->present();
  return present_;
}

void ReplicaImpl::absorb(const RoundResult& result, std::int64_t epoch) {
  latest_round_ = result;
  decider_.add_reduced_loss(epoch, result.loss_sum, result.loss_samples);
  latest_loss_ = decider_.latest_loss();
}

base::Status ReplicaImpl::check(const StepInput& input) const {
  const auto bad = [](const char* text) {
    return base::Error(base::ErrorCode::kInvalidArgument, text);
  };
  if (round_open_) return bad("step belongs behind backward_end: a backward has begun");
  // The gradients of the step before are in place still, and would be applied again.
  const bool complete = server_ || local_ ? staged_ || input.skip : rounds_ > 0;
  if (!complete) {
    return bad("step without a backward since the last one: call backward_end before");
  }
  if (!input.modified.empty() && input.modified.size() != plan_.buckets.size()) {
    return bad("step needs one flag per bucket, or none");
  }
  if (!std::isfinite(input.gradient_factor)) return bad("gradient_factor must be finite");
  if (!(input.clip_norm >= 0) || !std::isfinite(input.clip_norm)) {
    return bad("clip_norm must be finite and not negative");
  }
  return server_ && !input.skip && samples_ > 0 ? check_hypers(input.hypers) : base::Status();
}

base::Result<StepReport> ReplicaImpl::step(const StepInput& input) {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  GEARSHIFT_RETURN_IF_ERROR(check(input));
  const bool by_server = server_ != nullptr;
  base::Result<StepReport> report = by_server ? step_server(input)
                                    : local_  ? step_local(input)
                                              : step_all_reduce(input);
  if (!report) return told(report.error());
  environment_.workers->progress().set_step(base::Step(step_));
  const bool voted =
      !by_server && latest_round_.joined == 0 && latest_round_.votes == environment_.workers_count;
  if (!by_server && latest_round_.joined == 0 && latest_round_.votes != 0 && !voted) {
    return told(base::Error(base::ErrorCode::kMismatch,
                            "the switch policy decided differently on different ranks (" +
                                std::to_string(latest_round_.votes) + " of " +
                                std::to_string(environment_.workers_count) +
                                " want to switch): it must depend on the metrics only"));
  }
  latest_round_.votes = 0;
  skipped_ = report->skipped;
  auto switched = switch_if_due(voted);
  if (!switched) return told(switched.error());
  report->switched = *switched;
  if (report->switched) report->seen = report->seen_of_others = step_;  // all of them have met
  return report;
}

base::Result<StepReport> ReplicaImpl::step_all_reduce(const StepInput& input) {
  note_own_step(input);
  const int active = environment_.workers_count - latest_round_.joined;
  return StepReport{.step = step_,
                    .seen = step_,
                    .seen_of_others = step_,
                    .alike = latest_round_.samples == samples_ * active};
}

/// Of a step in which this rank's optimizer has updated its parameters.
void ReplicaImpl::note_own_step(const StepInput& input) {
  // Losses travel with the next round's control values, under the epoch that is current then.
  epoch_ = input.epoch;
  if (!std::isnan(input.loss) && samples_ > 0) {
    pending_loss_ += input.loss * samples_;
    pending_samples_ += samples_;
  }
  ++step_;
  rounds_ = 0;
  hypers_digest_ = digest_of(input.hypers);
  latest_hypers_ = input.hypers;
}

base::Error ReplicaImpl::out_of_step(const RoundResult& round) const {
  std::ostringstream text;
  text
      << "ranks have made different numbers of optimizer steps, so their replicas differ: this one "
      << step_ << ", and " << rounds_ << " backward passes since, others ";
  text << (round.step < step_   ? "fewer"
           : round.step > step_ ? "more"
                                : "as many, and other passes");
  text << ". A step that one rank leaves out (a loss that is too large, a broken batch) must be "
          "left "
          "out by all: decide by a value that all ranks share (gs.all_reduce); where gradients are "
          "accumulated, every rank must step after the same backward pass";
  return {base::ErrorCode::kMismatch, text.str()};
}

base::Error ReplicaImpl::ranks_differ() const {
  if (!compares_next_) return hypers_differ();
  return {base::ErrorCode::kMismatch,
          "ranks have different parameters before the first step: what is written to them after "
          "the start (a checkpoint that is loaded, layers that are initialised) must be the same "
          "on every rank"};
}

base::Error ReplicaImpl::hypers_differ() const {
  std::ostringstream text;
  text << "ranks applied step " << step_
       << " with different optimizer settings (learning rate, momentum, ..., and of a GradScaler "
          "its "
          "scale), so their replicas differ; this rank's were";
  for (const double number : latest_hypers_) text << ' ' << number;
  text << ". Every rank must compute the same learning rate: from steps or epochs that all ranks "
          "have made, not from batches that only this one has seen; and load the same "
          "checkpoints, of the optimizer, too";
  return {base::ErrorCode::kMismatch, text.str()};
}

base::Status ReplicaImpl::stage_modified(const std::vector<bool>& modified) {
  GEARSHIFT_RETURN_IF_ERROR(comm_->drain());
  if (staged_ && settled_) return {};
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    const base::Bytes gradient = memory_->gradients(b);
    const bool changed =
        modified.empty() ? kernels::hash64(gradient) != staged_hashes_[b] : modified[b];
    if ((staged_ && !changed) || gradient.empty()) continue;
    GEARSHIFT_RETURN_IF_ERROR(server_->client().stage(b, gradient));
  }
  return {};
}

base::Result<double> ReplicaImpl::clip_factor(const StepInput& input) const {
  const ParameterServer& config = server_->config();
  const double limit = input.clip_norm > 0 ? input.clip_norm : config.clip_norm;
  if (limit <= 0 || config.consistency.is_synchronous()) return input.gradient_factor;
  double squares = 0;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    squares += kernels::norm_part(plan_.buckets[b].dtype, memory_->gradients(b)).sum_of_squares;
  }
  const double norm = std::sqrt(squares) * std::abs(input.gradient_factor);
  return input.gradient_factor * std::min(1.0, limit / (norm + 1e-6));
}

base::Status ReplicaImpl::check_hypers(const ps::HyperValues& hypers) const {
  const ps::OptimizerSpec& spec = *options_.optimizer;
  const std::size_t wanted = spec.hyper_names.size() * spec.param_groups;
  if (hypers.size() == wanted) return {};
  std::ostringstream text;
  text << "under a server, step needs " << wanted << " optimizer settings (for each of "
       << spec.param_groups << " param groups:";
  for (const std::string& name : spec.hyper_names) text << ' ' << name;
  text << "), not " << hypers.size();
  return base::Error(base::ErrorCode::kInvalidArgument, text.str());
}

base::Result<StepReport> ReplicaImpl::step_server(const StepInput& input) {
  Stopwatch watch(scheduler_, exposed_seconds_);
  const base::TimePoint begin = scheduler_.now();
  epoch_ = input.epoch;
  GEARSHIFT_RETURN_IF_ERROR(stage_modified(input.modified));
  ps::Commit commit;
  commit.step = step_ + 1;
  commit.epoch = input.epoch;
  commit.samples = samples_;
  commit.loss = input.loss;
  commit.skip = input.skip;
  commit.clip_norm = input.clip_norm;
  commit.present = present_;
  commit.hypers = input.hypers;
  GEARSHIFT_ASSIGN_OR_RETURN(commit.gradient_factor, clip_factor(input));
  GEARSHIFT_ASSIGN_OR_RETURN(const ps::Reply reply,
                             server_->client().commit(commit, memory_->all_parameters()));
  staged_ = false;
  server_seconds_ += base::to_seconds(scheduler_.now() - sending_since_.value_or(begin));
  sending_since_.reset();
  ++step_;
  ++pushes_;
  staleness_sum_ += static_cast<double>(reply.staleness);
  max_staleness_ = std::max(max_staleness_.load(), reply.staleness);
  leave_after_ = std::max(leave_after_, reply.leave_after);
  latest_loss_ = reply.loss;
  remember_parameters();
  GEARSHIFT_RETURN_IF_ERROR(server_->handle_news());
  const int buffer = server_->config().consistency.buffer;
  const std::int64_t seen = step_ - (buffer - 1);  // all that are held may be of one worker
  return StepReport{
      .step = step_, .seen = seen, .seen_of_others = seen - reply.lead, .skipped = reply.skipped};
}

}  // namespace gearshift::strategy
