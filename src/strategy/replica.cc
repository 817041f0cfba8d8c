#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>

#include "gearshift/base/log.h"
#include "gearshift/kernels/reduce.h"
#include "strategy/agreement.h"
#include "strategy/bucket_size.h"
#include "strategy/channels.h"
#include "strategy/phases.h"
#include "strategy/replica_impl.h"

namespace gearshift::strategy {
namespace {

/// How workers reduce among themselves in the first phase in which they do, if there is one.
std::optional<AllReduce> first_exchange(const Strategy& strategy) {
  for (const Phase& phase : phases_of(strategy)) {
    if (const std::optional<AllReduce> how = exchange_of(phase)) return how;
  }
  return std::nullopt;
}

/// Whether the optimizer's state, each rank's own under LocalSgd, is another phase's afterwards.
bool shares_state(const Strategy& strategy) {
  const std::vector<Phase> phases = phases_of(strategy);
  return phases.size() > 1 && std::any_of(phases.begin(), phases.end(), [](const Phase& phase) {
           return std::holds_alternative<LocalSgd>(phase);
         });
}

/// As the strategy says, or as suits the links; a switch keeps the buckets of its start.
std::size_t bucket_bytes(const Environment& environment, const ReplicaOptions& options) {
  const Strategy& strategy = options.strategy;
  if (strategy.bucket_bytes) return *strategy.bucket_bytes;
  const Phase first = phases_of(strategy).front();
  std::size_t model = 0;
  for (const ParameterSpec& p : options.parameters) model += p.elements() * base::size_of(p.dtype);
  const group::Group& group = exchange_of(first) ? *environment.workers : *environment.world;
  return best_bucket_bytes(model, first, group.topology().get(), environment.workers_count);
}

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  a ^= b + 0x9E3779B97F4A7C15ULL + (a << 6U) + (a >> 2U);
  return a;
}

/// Whether this process can lend memory to another one of the job.
bool has_neighbours(const group::Group& world) {
  for (int r = 0; r < world.size(); ++r) {
    if (r != world.rank().value && world.link(base::Rank(r)).capabilities().shared_regions) {
      return true;
    }
  }
  return false;
}

base::Status check(const Environment& environment, const ReplicaOptions& options) {
  GEARSHIFT_RETURN_IF_ERROR(options.strategy.validate(
      environment.workers_count, environment.world->size() - environment.workers_count));
  if (options.model >= kMaxModels) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "a job can have at most " + std::to_string(kMaxModels) +
                           " distributed models at a time: stop (in Python: release) others");
  }
  if (has_server(options.strategy) && (!options.optimizer || options.bridge == nullptr)) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "a parameter server applies the optimizer itself, so it needs one; without "
                       "an optimizer use the all-reduce strategy");
  }
  if (shares_state(options.strategy) && options.bridge == nullptr) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "a switch to or from local_sgd needs the optimizer's state, and so the "
                       "optimizer (ReplicaOptions::bridge)");
  }
  return {};
}

/// Lanes over wires: two buckets at a time; three among sites, where both of two, which share the
/// link between them, tend to come to its end together, and leave it idle while each goes round its
/// site.
std::size_t lanes_over_wires(const group::Group& workers) {
  const group::Topology* topology = workers.topology().get();
  return topology != nullptr && topology->sites() != nullptr ? 3 : 2;
}

}  // namespace

base::Result<std::unique_ptr<Replica>> Replica::create(Environment environment,
                                                       ReplicaOptions options) {
  GEARSHIFT_RETURN_IF_ERROR(check(environment, options));
  GEARSHIFT_ASSIGN_OR_RETURN(
      BucketPlan plan, BucketPlan::make(options.parameters, bucket_bytes(environment, options)));
  auto replica = std::make_unique<ReplicaImpl>(environment, std::move(options), std::move(plan));
  GEARSHIFT_RETURN_IF_ERROR(replica->prepare());
  return std::unique_ptr<Replica>(std::move(replica));
}

ReplicaImpl::ReplicaImpl(Environment environment, ReplicaOptions options, BucketPlan plan)
    : environment_(environment),
      options_(std::move(options)),
      plan_(std::move(plan)),
      scheduler_(environment.workers->scheduler()),
      control_(environment.workers->with_channel(control_channel(options_.model))),
      decider_(scheduler_, options_.strategy),
      missing_(plan_.buckets.size()),
      ready_(plan_.buckets.size()),
      is_ready_(plan_.parameters.size(), false),
      present_(plan_.parameters.size(), false),
      staged_hashes_(plan_.buckets.size()),
      busy_(std::make_shared<BusyTime>(scheduler_)),
      stats_monitor_(scheduler_.make_monitor()) {}

ReplicaImpl::~ReplicaImpl() {
  comm_.reset();  // its jobs use nearly everything else
  // So does the task of a shard: it asks a policy, which may ask for stats. It ends unlocked.
  std::unique_ptr<ServerPhase> server;
  const std::lock_guard<base::Monitor> lock(*stats_monitor_);
  server = std::move(server_);
}

base::Status ReplicaImpl::prepare() {
  GEARSHIFT_RETURN_IF_ERROR(checked(check_agreement(control_, description())));
  group::Group group = environment_.workers->with_channel(reducer_channel(options_.model));
  const std::optional<AllReduce> all_reduce = first_exchange(options_.strategy);
  const GradientReaders readers{.reducers = all_reduce ? &group : nullptr,
                                .servers = has_server(options_.strategy) && !options_.phantom &&
                                           has_neighbours(*environment_.world)};
  GEARSHIFT_ASSIGN_OR_RETURN(
      memory_, BucketMemory::create(plan_, options_.buffer_bytes, readers, options_.phantom));
  comm_ = std::make_unique<CommTask>(scheduler_, "gs-comm", busy_);
  make_reducer(std::move(group), all_reduce);
  return {};
}

/// Over wires several buckets at a time, and control values beside them. In shared memory one
/// bucket has all of it, and under servers alone none is reduced.
void ReplicaImpl::make_reducer(group::Group group, const std::optional<AllReduce>& all_reduce) {
  const group::Group& workers = *environment_.workers;
  const bool wires = all_reduce && !workers.shares_memory() && workers.size() > 1;
  std::vector<group::Group> lanes{std::move(group)};
  std::optional<group::Group> control;
  if (wires) {
    control = workers.with_channel(round_channel(options_.model));
    const std::size_t most = std::min(lanes_over_wires(workers), plan_.buckets.size());
    while (lanes.size() < most) {
      const int lane = static_cast<int>(lanes.size());
      lanes.push_back(workers.with_channel(lane_channel(options_.model, lane)));
    }
  }
  reducer_ = std::make_unique<Reducer>(std::move(lanes), std::move(control), plan_, *memory_,
                                       *comm_, all_reduce.value_or(AllReduce{}));
}

std::vector<std::string> ReplicaImpl::description() const {
  std::vector<std::string> lines{"gearshift " + options_.fingerprint,
                                 "strategy " + options_.strategy.to_string(),
                                 "buffer bytes " + std::to_string(options_.buffer_bytes)};
  if (options_.optimizer) {
    std::string line = "optimizer " + options_.optimizer->kind + " with " +
                       std::to_string(options_.optimizer->param_groups) + " param groups:";
    for (const std::string& name : options_.optimizer->hyper_names) line += " " + name;
    lines.push_back(line);
  }
  for (const ParameterSpec& parameter : plan_.parameters) {
    std::string line = "parameter " + parameter.name + " (";
    for (std::size_t i = 0; i < parameter.shape.size(); ++i) {
      line += (i > 0 ? ", " : "") + std::to_string(parameter.shape[i]);
    }
    lines.push_back(line + ") " + std::string(base::to_string(parameter.dtype)) + " group " +
                    std::to_string(parameter.param_group));
  }
  return lines;
}

base::Bytes ReplicaImpl::view_of(base::Bytes bucket, std::uint32_t index) const {
  const ParameterSpec& spec = plan_.parameters[index];
  return base::slice(bucket, plan_.offset_of[index], spec.elements() * base::size_of(spec.dtype));
}

base::Bytes ReplicaImpl::parameter(std::uint32_t index) {
  return view_of(memory_->parameters(plan_.bucket_of[index]), index);
}

base::Bytes ReplicaImpl::gradient(std::uint32_t index) {
  return view_of(memory_->gradients(plan_.bucket_of[index]), index);
}

base::Status ReplicaImpl::start() {
  if (failed_) return *failed_;
  if (started_ || stopped_) {
    return base::Error(base::ErrorCode::kInvalidArgument, "start() was called already");
  }
  GEARSHIFT_RETURN_IF_ERROR(checked(broadcast_model(base::Rank(0))));
  GEARSHIFT_RETURN_IF_ERROR(checked(open_phase()));
  compares_next_ = true;
  started_ = true;
  return {};
}

base::Status ReplicaImpl::usable() const {
  if (failed_) return *failed_;
  if (stopped_) {
    return base::Error(base::ErrorCode::kClosed,
                       "this replica was stopped: it makes no more steps");
  }
  if (!started_) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "call start() first: until then parameters are each rank's own");
  }
  return {};
}

base::Error ReplicaImpl::told(const base::Error& error, bool fatal) {
  if (failed_) return *failed_;
  const bool harmless = error.code == base::ErrorCode::kInvalidArgument ||
                        error.code == base::ErrorCode::kUnsupported;
  if (harmless && !fatal) return error;
  base::Error told = error;
  if (environment_.monitor != nullptr) {
    told = environment_.monitor->explain(error);
    // Ranks that train saw a mismatch themselves; everything else ends the job for everybody.
    const bool all_know = error.code == base::ErrorCode::kMismatch && latest_round_.joined == 0;
    if (!all_know) environment_.monitor->fail(told);
  }
  failed_ = told;
  return told;
}

base::Status ReplicaImpl::checked(base::Status status) {
  if (status) return status;
  return told(status.error());
}

base::Result<std::vector<ps::StateEntry>> ReplicaImpl::fetch_state() {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (!server_) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "no server is in force: the optimizer's state is with the worker");
  }
  GEARSHIFT_RETURN_IF_ERROR(checked(comm_->drain()));
  std::vector<std::size_t> sizes;
  std::vector<base::DType> dtypes;
  for (const ParameterSpec& parameter : plan_.parameters) {
    sizes.push_back(parameter.elements());
    dtypes.push_back(parameter.dtype);
  }
  auto state = server_->client().fetch_state(sizes, dtypes);
  if (!state) return told(state.error());
  return state;
}

base::Status ReplicaImpl::check_state(const std::vector<ps::StateEntry>& state) const {
  const auto bad = [](const std::string& text) {
    return base::Error(base::ErrorCode::kInvalidArgument, text);
  };
  if (state.size() != plan_.parameters.size()) {
    return bad("optimizer state has " + std::to_string(state.size()) + " entries for " +
               std::to_string(plan_.parameters.size()) + " parameters");
  }
  for (std::size_t i = 0; i < state.size(); ++i) {
    const ParameterSpec& parameter = plan_.parameters[i];
    const std::size_t bytes = parameter.elements() * base::size_of(parameter.dtype);
    for (const auto& [name, tensor] : state[i].tensors) {
      if (tensor.size() == bytes) continue;
      return bad("optimizer state '" + name + "' of parameter " + parameter.name + " has " +
                 std::to_string(tensor.size()) + " bytes, the parameter " + std::to_string(bytes) +
                 ": it must be of the same shape and dtype");
    }
  }
  return {};
}

base::Status ReplicaImpl::store_state(const std::vector<ps::StateEntry>& state) {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (!server_) {
    return base::Error(base::ErrorCode::kInvalidArgument, "store_state needs a server in force");
  }
  GEARSHIFT_RETURN_IF_ERROR(check_state(state));
  GEARSHIFT_RETURN_IF_ERROR(checked(comm_->drain()));
  return checked(server_->client().store_state(state));
}

base::Status ReplicaImpl::store_parameters() {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (local_ && local_->steps() == 0) local_->take_parameters();
  if (!server_) return {};
  GEARSHIFT_RETURN_IF_ERROR(checked(comm_->drain()));
  parameters_hash_.reset();
  const auto& all = memory_->all_parameters();
  return checked(server_->client().store_parameters({all.begin(), all.end()}));
}

std::uint64_t ReplicaImpl::hash_of_parameters() const {
  std::uint64_t hash = 0;
  for (const base::Bytes bucket : memory_->all_parameters()) {
    hash = mix(hash, kernels::hash64(bucket));
  }
  return hash;
}

/// To hash a model takes a tenth of a millisecond per megabyte, so not in every step.
void ReplicaImpl::remember_parameters() {
  constexpr std::int64_t kFirst = 32;
  constexpr std::int64_t kEvery = 16;
  parameters_hash_.reset();
  if (options_.phantom) return;
  const bool due = were_written_ || step_ < kFirst || step_ % kEvery == 0;
  if (due) parameters_hash_ = hash_of_parameters();
}

bool ReplicaImpl::parameters_written() {
  if (!server_ || !parameters_hash_) return false;
  const bool written = *parameters_hash_ != hash_of_parameters();
  were_written_ = were_written_ || written;
  return written;
}

/// Also a policy may ask, on the task of a shard.
Stats ReplicaImpl::stats() const {
  Stats stats;
  stats.strategy = strategy::to_string(decider_.phase());
  stats.step = step_;
  stats.loss = latest_loss_;
  const transport::Traffic traffic = environment_.world->traffic();
  stats.bytes_sent = traffic.bytes_sent;
  stats.bytes_received = traffic.bytes_received;
  stats.pushes = pushes_;
  stats.mean_staleness = pushes_ > 0 ? staleness_sum_ / static_cast<double>(pushes_) : 0;
  stats.max_staleness = max_staleness_;
  const std::lock_guard<base::Monitor> lock(*stats_monitor_);
  if (server_) {
    if (const auto shard = server_->shard_stats()) {
      stats.max_lead = shard->max_lead;
      stats.shard_applies = shard->applies;
    }
  }
  stats.exposed_seconds = exposed_seconds_;
  stats.communication_seconds = busy_->seconds() + server_seconds_;
  stats.switches = switches_;
  return stats;
}

base::Status ReplicaImpl::finish() {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (server_) return checked(finish_server());
  return local_ ? checked(finish_local()) : base::Status();
}

base::Status ReplicaImpl::stop() {
  if (failed_ || stopped_) return {};
  if (server_) GEARSHIFT_RETURN_IF_ERROR(stop_server());
  if (local_) warn_of_steps_alone();
  warn_of_missed_switch();
  stopped_ = true;
  if (environment_.on_stopped) environment_.on_stopped(options_.model);
  return {};
}

base::Status ReplicaImpl::stop_server() {
  // Gradients of a backward that no step followed may still be on their way to the servers.
  GEARSHIFT_RETURN_IF_ERROR(checked(comm_->drain()));
  // The answer comes when the servers have seen all that was sent before; and those that wait for
  // every worker go on without this one.
  GEARSHIFT_RETURN_IF_ERROR(checked(server_->client().leave(step_)));
  const base::Result<Meeting> meeting = meet(Intent::kStop);
  if (!meeting) return told(meeting.error());
  // Of replicas that are equal otherwise, one that ended early is not.
  if (meeting->steps > step_ && server_->is_synchronous()) {
    GEARSHIFT_LOG_AT(kWarn, "strategy",
                     "this rank " << environment_.world->rank().value
                                  << " ended the training after step " << step_ << ", rank "
                                  << meeting->furthest << " went on without it to step "
                                  << meeting->steps
                                  << ": its model is not that of the others. Join where ranks have "
                                     "different numbers of batches (gst.join in Python, "
                                     "Replica::join in C++)");
  }
  return checked(end_server());
}

}  // namespace gearshift::strategy
