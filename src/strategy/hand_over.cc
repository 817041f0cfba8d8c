#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <utility>

#include "gearshift/base/log.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/kernels/reduce.h"
#include "strategy/agreement.h"
#include "strategy/phases.h"
#include "strategy/replica_impl.h"
#include "strategy/vigil.h"

namespace gearshift::strategy {
namespace {

constexpr base::Duration kForever = std::chrono::hours(24 * 365);

collectives::Options labelled(const std::string& label) {
  collectives::Options options;
  options.label = label;
  return options;
}

}  // namespace

base::Result<std::optional<SwitchRecord>> ReplicaImpl::switch_if_due(bool voted) {
  bool due = voted;
  base::Rank leader(0);  // where all have voted, all make this step
  if (server_) {
    const std::optional<std::int64_t> known = decider_.known_step();
    due = (known && checked_step_ < *known && *known <= step_) ||
          (leave_after_ > 0 && step_ >= leave_after_);
    if (due) {
      GEARSHIFT_RETURN_IF_ERROR(server_->client().leave(step_));
      GEARSHIFT_ASSIGN_OR_RETURN(const Meeting meeting, meet(Intent::kSwitch));
      due = !meeting.all_join;
      leader = meeting.leader;
    }
  }
  checked_step_ = step_;
  if (!due) return std::optional<SwitchRecord>();
  GEARSHIFT_ASSIGN_OR_RETURN(SwitchRecord record, hand_over(leader));
  return std::optional<SwitchRecord>(std::move(record));
}

/// Nobody can go on after half a switch, whatever the error.
base::Result<SwitchRecord> ReplicaImpl::hand_over(base::Rank leader) {
  auto record = switch_over(leader);
  if (!record) return told(record.error(), true);
  return record;
}

base::Result<SwitchRecord> ReplicaImpl::switch_over(base::Rank leader) {
  const base::TimePoint begin = scheduler_.now();
  const transport::Traffic before = environment_.world->traffic();
  SwitchRecord record;
  record.from = strategy::to_string(decider_.phase());
  record.policy = decider_.policy_name();
  record.inputs = decider_.inputs();
  GEARSHIFT_RETURN_IF_ERROR(close_phase());
  if (record.inputs.empty()) record.inputs = "step " + std::to_string(step_);
  decider_.advance(step_);
  leave_after_ = 0;
  record.step = step_;
  record.to = strategy::to_string(decider_.phase());
  GEARSHIFT_RETURN_IF_ERROR(open_phase());
  if (std::holds_alternative<AllReduce>(decider_.phase())) {
    GEARSHIFT_RETURN_IF_ERROR(share_scales(leader));
  }
  GEARSHIFT_ASSIGN_OR_RETURN(record.parameter_hash, compare_replicas("after the switch"));
  const transport::Traffic after = environment_.world->traffic();
  record.bytes_moved =
      after.bytes_sent - before.bytes_sent + after.bytes_received - before.bytes_received;
  record.seconds = base::to_seconds(scheduler_.now() - begin);
  checked_step_ = step_;
  {
    const std::lock_guard<base::Monitor> lock(*stats_monitor_);
    switches_.push_back(record);
  }
  GEARSHIFT_LOG_AT(kInfo, "strategy",
                   "switched from " << record.from << " to " << record.to << " after step "
                                    << record.step << " in " << record.seconds << " s ("
                                    << record.policy << ": " << record.inputs << ")");
  return record;
}

/// Replicas are equal afterwards, and the optimizers' states in which the next phase begins.
base::Status ReplicaImpl::close_phase() {
  if (server_) return close_server();
  if (local_) GEARSHIFT_RETURN_IF_ERROR(close_local());
  const base::Result<std::uint64_t> hash = compare_replicas("before the switch");
  return hash ? base::Status() : base::Status(hash.error());
}

/// Servers, and local steps, want gradients unscaled by each rank; a sum of gradients that were
/// scaled by different factors nobody can unscale.
base::Status ReplicaImpl::share_scales(base::Rank root) {
  if (!options_.bridge->has_scales()) return {};
  std::vector<std::byte> scales;
  if (control_.rank() == root) {
    GEARSHIFT_ASSIGN_OR_RETURN(scales, options_.bridge->export_scales(skipped_));
  }
  GEARSHIFT_ASSIGN_OR_RETURN(
      scales, broadcast_blob(control_, scales, root, "scales of losses before all_reduce"));
  return options_.bridge->import_scales(scales);
}

base::Status ReplicaImpl::open_phase() {
  const Phase phase = decider_.phase();
  if (std::holds_alternative<ParameterServer>(phase)) return open_server();
  reducer_->use(*exchange_of(phase));
  return std::holds_alternative<LocalSgd>(phase) ? open_local() : base::Status();
}

base::Status ReplicaImpl::open_server() {
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<ps::StateEntry> state,
                             options_.bridge->export_state());
  ServerPhaseOptions options;
  options.config = std::get<ParameterServer>(decider_.phase());
  options.optimizer = *options_.optimizer;
  options.model = options_.model;
  options.phantom = options_.phantom;
  options.incarnation = incarnations_++;
  options.first_step = step_;
  if (environment_.world->rank().value == 0) {
    options.on_commit = [this](const ps::CommitInfo& info) { return decider_.on_commit(info); };
  }
  options.on_failure = [monitor = environment_.monitor,
                        world = environment_.world](const base::Error& error) {
    if (monitor != nullptr) {
      monitor->fail(error);
    } else {
      world->abort(error);  // else this process's own worker would wait for its answer
    }
  };
  if (!state.empty()) GEARSHIFT_RETURN_IF_ERROR(check_state(state));
  GEARSHIFT_ASSIGN_OR_RETURN(auto server, ServerPhase::open(environment_, plan_, *memory_, control_,
                                                            std::move(options), state));
  {
    const std::lock_guard<base::Monitor> lock(*stats_monitor_);
    server_ = std::move(server);
  }
  staged_ = false;
  sending_since_.reset();
  remember_parameters();
  return {};
}

base::Status ReplicaImpl::end_server() {
  GEARSHIFT_RETURN_IF_ERROR(server_->close());
  const std::lock_guard<base::Monitor> lock(*stats_monitor_);
  server_.reset();
  return {};
}

/// All workers have left the server: applies what it holds, and takes its parameters.
base::Status ReplicaImpl::last_updates(const std::string& label) {
  GEARSHIFT_RETURN_IF_ERROR(server_->client().flush());
  GEARSHIFT_RETURN_IF_ERROR(collectives::barrier(control_, labelled(label)));
  return pull_latest();
}

/// The server's parameters, and its loss: of steps for which this rank had no batches, too.
base::Status ReplicaImpl::pull_latest() {
  GEARSHIFT_ASSIGN_OR_RETURN(const ps::Reply fresh,
                             server_->client().pull(memory_->all_parameters()));
  const bool knows = fresh.version > 0 || !std::isnan(fresh.loss);  // else the one from before
  if (knows) latest_loss_ = fresh.loss;
  return {};
}

base::Status ReplicaImpl::finish_server() {
  GEARSHIFT_RETURN_IF_ERROR(comm_->drain());
  GEARSHIFT_RETURN_IF_ERROR(server_->client().leave(step_));
  GEARSHIFT_ASSIGN_OR_RETURN(const Meeting meeting, meet(Intent::kFinish));
  GEARSHIFT_RETURN_IF_ERROR(broadcast_buffers(base::Rank(meeting.furthest)));
  return last_updates("last updates");
}

base::Status ReplicaImpl::close_server() {
  GEARSHIFT_RETURN_IF_ERROR(server_->handle_news());
  GEARSHIFT_RETURN_IF_ERROR(last_updates("last updates before switch"));
  GEARSHIFT_ASSIGN_OR_RETURN(std::vector<ps::StateEntry> state, fetch_state());
  GEARSHIFT_RETURN_IF_ERROR(options_.bridge->import_state(std::move(state)));
  GEARSHIFT_RETURN_IF_ERROR(await_all("end of parameter servers"));
  GEARSHIFT_RETURN_IF_ERROR(end_server());
  // Worker 0 alone has seen all losses; from here on every rank decides by itself again.
  GEARSHIFT_RETURN_IF_ERROR(take_history(base::Rank(0)));
  // What the next round would tell of is of an earlier phase.
  hypers_digest_ = 0;
  pending_loss_ = pending_samples_ = 0;
  rounds_ = 0;
  return sync_steps_after_server();
}

base::Status ReplicaImpl::take_history(base::Rank root) {
  GEARSHIFT_ASSIGN_OR_RETURN(
      const std::vector<std::byte> history,
      broadcast_blob(control_, decider_.pack_history(), root, "loss history"));
  GEARSHIFT_RETURN_IF_ERROR(decider_.unpack_history(history));
  latest_loss_ = decider_.latest_loss();
  return {};
}

base::Status ReplicaImpl::sync_steps_after_server() {
  const std::int64_t mine = step_;
  GEARSHIFT_ASSIGN_OR_RETURN(const base::Rank root, furthest_rank());
  behind_ = behind_ || mine < step_;  // it has joined, and learns of this then
  return broadcast_buffers(root);
}

base::Status ReplicaImpl::broadcast_buffers(base::Rank root) {
  if (memory_->buffers().empty()) return {};
  return collectives::broadcast(control_, memory_->buffers(), root, labelled("broadcast buffers"));
}

/// The lowest of the ranks that made all steps themselves.
base::Result<base::Rank> ReplicaImpl::furthest_rank() {
  const auto mine = 2 * static_cast<std::uint64_t>(step_) + (behind_ ? 0 : 1);
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<std::uint64_t> steps,
                             gather_u64(control_, mine, "comparing steps", control_.timeout()));
  const auto most = std::max_element(steps.begin(), steps.end());
  step_ = static_cast<std::int64_t>(*most / 2);
  return base::Rank(static_cast<int>(most - steps.begin()));
}

/// How long to wait for ranks that still make steps, while the vigil is kept, if it can be.
base::Duration ReplicaImpl::patience(std::optional<Vigil>& vigil) {
  if (environment_.monitor == nullptr) return control_.timeout() * kPatientTimeouts;
  vigil.emplace(scheduler_, *environment_.monitor, control_.timeout());
  return kForever;
}

/// A barrier behind transfers that take longer to some ranks than to others.
base::Status ReplicaImpl::await_all(const std::string& label) {
  collectives::Options options = labelled(label);
  options.timeout = control_.timeout() * kPatientTimeouts;
  return collectives::barrier(control_, options);
}

/// Some may come to join and some to switch, but none ends alone.
base::Result<ReplicaImpl::Meeting> ReplicaImpl::meet(Intent intent) {
  constexpr std::uint64_t kIntents = 8;  // what is told is intent + kIntents * steps
  const char* const label = intent == Intent::kJoin ? "out of batches, waiting for the other ranks"
                            : intent == Intent::kStop ? "end of parameter servers"
                                                      : "waiting for the other ranks";
  std::optional<Vigil> vigil;
  const base::Duration bound = patience(vigil);
  const std::uint64_t mine =
      static_cast<std::uint64_t>(intent) + kIntents * static_cast<std::uint64_t>(step_);
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<std::uint64_t> told,
                             gather_u64(control_, mine, label, bound));
  const auto intent_of = [](std::uint64_t t) { return static_cast<Intent>(t % kIntents); };
  // 0: it goes on, after a join or a switch.
  const auto finality = [&](std::uint64_t t) {
    return intent_of(t) < Intent::kFinish ? 0 : static_cast<int>(intent_of(t));
  };
  const auto by_finality = [&](auto a, auto b) { return finality(a) < finality(b); };
  const auto ends = std::max_element(told.begin(), told.end(), by_finality);
  const auto other = std::min_element(told.begin(), told.end(), by_finality);
  if (finality(*ends) != finality(*other)) {
    return base::Error(
        base::ErrorCode::kMismatch,
        "rank " + std::to_string(ends - told.begin()) +
            " has ended the training of this model, rank " + std::to_string(other - told.begin()) +
            (finality(*other) == 0 ? " is at the end of an epoch or before a switch: where ranks "
                                     "have different numbers of batches, join() before the end"
                                   : " releases it: all ranks must, or none"),
        static_cast<int>(ends - told.begin()));
  }
  const auto most = std::max_element(told.begin(), told.end(),
                                     [](auto a, auto b) { return a / kIntents < b / kIntents; });
  const auto rank_of_switch = [&](std::uint64_t t) {  // 0: it does not switch
    return intent_of(t) == Intent::kSwitch ? t : 0;
  };
  const auto leader = std::max_element(told.begin(), told.end(), [&](auto a, auto b) {
    return rank_of_switch(a) < rank_of_switch(b);
  });
  return Meeting{
      std::all_of(told.begin(), told.end(), [&](auto t) { return intent_of(t) == Intent::kJoin; }),
      base::Rank(static_cast<int>(leader - told.begin())), static_cast<int>(most - told.begin()),
      static_cast<std::int64_t>(*most / kIntents)};
}

base::Result<std::uint64_t> ReplicaImpl::compare_replicas(const std::string& when) {
  const std::uint64_t mine = hash_of_parameters();
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<std::uint64_t> all,
                             gather_u64(control_, mine, "comparing replicas", control_.timeout()));
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    return base::Error(base::ErrorCode::kMismatch,
                       "replicas differ " + when + ": rank " + std::to_string(r) +
                           " has other parameters than rank 0; every rank must apply the same "
                           "updates (a rank-dependent learning rate or clipping? Processors that "
                           "PyTorch computes on in different ways? ATEN_CPU_CAPABILITY=default on "
                           "all ranks makes them one)",
                       static_cast<int>(r));
  }
  return mine;
}

base::Status ReplicaImpl::broadcast_model(base::Rank root) {
  for (const base::Bytes bucket : memory_->all_parameters()) {
    GEARSHIFT_RETURN_IF_ERROR(
        collectives::broadcast(control_, bucket, root, labelled("broadcast parameters")));
  }
  return collectives::broadcast(control_, memory_->buffers(), root, labelled("broadcast buffers"));
}

base::Result<Replica::JoinReport> ReplicaImpl::join(const std::function<void()>& before) {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (round_open_) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "a backward has begun and has not ended: the others wait for its gradients");
  }
  if (server_) {
    const base::Status left = server_->client().leave(step_);
    if (!left) return told(left.error());
  }
  while (server_) {
    const base::Result<Meeting> meeting = meet(Intent::kJoin);
    if (!meeting) return told(meeting.error());
    if (meeting->all_join) {
      base::Result<JoinReport> joined = join_server();
      if (!joined) return told(joined.error());
      return joined;
    }
    // The others switch meanwhile.
    base::Result<SwitchRecord> record = hand_over(meeting->leader);
    if (!record) return told(record.error());
  }
  base::Result<JoinReport> report = local_ ? join_local(before) : join_all_reduce(before);
  if (!report) return told(report.error());
  return report;
}

/// Whose steps are everybody's now, and whether anybody has made fewer. With the answer travels
/// `hash`, of what is to be equal on all ranks, but for its lowest bit.
base::Result<ReplicaImpl::Level> ReplicaImpl::level_steps(std::uint64_t hash) {
  const std::int64_t mine = step_;
  GEARSHIFT_ASSIGN_OR_RETURN(const base::Rank root, furthest_rank());
  const std::uint64_t told = (hash & ~std::uint64_t{1}) | (behind_ || mine < step_ ? 1U : 0U);
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<std::uint64_t> all,
                             gather_u64(control_, told, "comparing steps", control_.timeout()));
  behind_ = false;
  const auto is_behind = [](std::uint64_t t) { return t % 2 == 1; };
  const auto is_same = [&](std::uint64_t t) { return (t | 1U) == (all[0] | 1U); };
  return Level{{root, std::any_of(all.begin(), all.end(), is_behind)},
               std::all_of(all.begin(), all.end(), is_same)};
}

base::Result<Replica::JoinReport> ReplicaImpl::join_all_reduce(std::function<void()> before) {
  while (true) {
    GEARSHIFT_ASSIGN_OR_RETURN(
        const RoundResult round,
        reducer_->shadow_round(pending_loss_, pending_samples_, std::exchange(before, nullptr)));
    pending_loss_ = pending_samples_ = 0;
    absorb(round, epoch_);
    if (round.joined == environment_.workers_count) break;
    // This rank's last step came before the others' gradients of it were complete: it does not
    // count, and its replica is made theirs. So it is where batches are accumulated, and some rank
    // steps with its last one early.
    step_ = std::min(step_.load(), round.step);
    behind_ = true;  // also where steps are not told of (a program that updates by itself)
  }
  GEARSHIFT_ASSIGN_OR_RETURN(Level level, end_rounds(hash_of_parameters()));
  if (!level.same && !level.report.steps_differ) warn_of_other_parameters(level.report.root);
  level.report.steps_differ = level.report.steps_differ || !level.same;
  if (level.report.steps_differ) GEARSHIFT_RETURN_IF_ERROR(broadcast_model(level.report.root));
  return level.report;
}

/// Of a rank alone that has loaded a checkpoint, or has not; or whose processor computes otherwise.
void ReplicaImpl::warn_of_other_parameters(base::Rank root) {
  if (std::exchange(warned_of_others_, true) || control_.rank().value != 0) return;
  GEARSHIFT_LOG_AT(kWarn, "strategy",
                   "ranks had different parameters when they joined at the end of an epoch, and go "
                   "on with those of rank "
                       << root.value
                       << ": every rank must load the same checkpoint, and apply the same "
                          "updates");
}

/// All ranks are through with the rounds of an epoch, and know of them what root does.
base::Result<ReplicaImpl::Level> ReplicaImpl::end_rounds(std::uint64_t hash) {
  hypers_digest_ = 0;  // the rates of different steps, where steps differ
  compares_next_ = false;
  rounds_ = 0;
  GEARSHIFT_ASSIGN_OR_RETURN(Level level, level_steps(hash));
  const JoinReport& report = level.report;
  if (!report.steps_differ) return level;
  // A rank without any batch has taken this epoch's losses for the last one's, and no rank that had
  // joined has asked its policy since.
  GEARSHIFT_RETURN_IF_ERROR(take_history(report.root));
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<std::uint64_t> epochs,
                             gather_u64(control_, static_cast<std::uint64_t>(epoch_),
                                        "comparing epochs", control_.timeout()));
  epoch_ = static_cast<std::int64_t>(epochs[static_cast<std::size_t>(report.root.value)]);
  return level;
}

base::Result<Replica::JoinReport> ReplicaImpl::join_server() {
  GEARSHIFT_RETURN_IF_ERROR(server_->client().flush());
  GEARSHIFT_RETURN_IF_ERROR(server_->handle_news());  // of the others' steps, if it made none
  GEARSHIFT_ASSIGN_OR_RETURN(const Level level, level_steps(0));
  GEARSHIFT_RETURN_IF_ERROR(broadcast_buffers(level.report.root));
  GEARSHIFT_RETURN_IF_ERROR(server_->client().enter(step_));
  GEARSHIFT_RETURN_IF_ERROR(collectives::barrier(control_, labelled("join")));
  GEARSHIFT_RETURN_IF_ERROR(pull_latest());
  staged_ = false;  // a gradient from before is one of other parameters
  sending_since_.reset();
  // Nobody pushes before everybody has the same parameters.
  GEARSHIFT_RETURN_IF_ERROR(await_all("join"));
  remember_parameters();
  return level.report;
}

/// A wrong `total_steps`, mostly: the job would seem to have trained as asked.
void ReplicaImpl::warn_of_missed_switch() const {
  const std::optional<std::int64_t> due = decider_.known_step();
  if (!due || step_ == 0 || step_ >= *due) return;
  if (options_.phantom || environment_.world->rank().value != 0) return;
  const std::int64_t total = options_.strategy.total_steps;
  GEARSHIFT_LOG_AT(kWarn, "strategy",
                   "training ended after step "
                       << step_ << ", before the switch from "
                       << strategy::to_string(decider_.phase()) << ", due after step " << *due
                       << " by " << decider_.policy_name()
                       << (total > 0 ? ", total_steps=" + std::to_string(total) : "")
                       << ": steps are those of one worker, of all epochs together");
}

}  // namespace gearshift::strategy
