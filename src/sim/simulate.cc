#include "gearshift/sim/simulate.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "gearshift/collectives/collectives.h"
#include "sim/check.h"
#include "sim/job.h"
#include "sim/learner_call.h"
#include "sim/paced_worker.h"
#include "sim/regularity.h"
#include "sim/steady_state.h"

namespace gearshift::sim {
namespace {

/// Of every task. Pages that are never touched cost nothing. A learner may be a whole framework.
constexpr std::size_t kStackBytes = std::size_t{256} << 10;
constexpr std::size_t kLearnerStackBytes = std::size_t{8} << 20;

/// A training; without a learner every replica is a phantom.
class Training {
 public:
  Training(const SimulationOptions& options, Job& job) : options_(options), job_(job) {
    const auto regular = options.every_step ? std::nullopt : regularity(options);
    if (!regular) return;
    steady_.emplace(options.cluster.workers(), options.steps, *regular, load(options),
                    options.steady_tolerance, [this] { return job_.network().milestone(); });
  }

  base::Result<SimulationResult> run() {
    if (options_.timeline) {
      job_.network().on_transfer(
          [this](int from, int to, base::TimePoint begin) { note_transfer(from, to, begin); });
    }
    for (int rank = 0; rank < options_.cluster.workers(); ++rank) {
      const auto host = static_cast<std::size_t>(options_.cluster.host_of(rank));
      WorkerResult worker;
      worker.rank = rank;
      worker.host = options_.cluster.hosts[host].name;
      result_.workers.push_back(std::move(worker));
    }
    first_begins_.resize(result_.workers.size());
    sums_.resize(result_.workers.size());
    const base::Status status = job_.run([this](int rank, strategy::Environment environment) {
      return rank < environment.workers_count ? work(rank, environment)
                                              : strategy::run_server(environment);
    });
    if (!status && !is_outcome(status.error())) return status.error();
    if (!status) result_.failure = status.error();
    for (WorkerResult& worker : result_.workers) {
      worker.first_begins = std::move(first_begins_[static_cast<std::size_t>(worker.rank)]);
    }
    result_.messages = job_.network().messages();
    result_.links = job_.network().platform().link_use();
    result_.simulated_steps = options_.steps;
    if (steady_) steady_->extend(result_);
    return std::move(result_);
  }

 private:
  /// Whether an error is what would happen to the job, and not a reason why it cannot be simulated.
  bool is_outcome(const base::Error& error) const {
    const bool host_failed =
        error.code == base::ErrorCode::kPeerLost && !options_.cluster.failures.empty();
    return host_failed || error.code == base::ErrorCode::kDiverged;
  }

  std::vector<strategy::ParameterSpec> parameters() const {
    std::vector<strategy::ParameterSpec> specs = options_.workload.specs();
    for (std::size_t p = 0; p < options_.param_groups.size(); ++p) {
      specs[p].param_group = options_.param_groups[p];
    }
    return specs;
  }

  base::Status work(int rank, strategy::Environment environment) {
    group::Group& world = *environment.world;
    std::vector<base::Rank> ranks;
    for (int r = 0; r < environment.workers_count; ++r) ranks.emplace_back(r);
    group::Group workers = world.subgroup(ranks, 1);
    environment.workers = &workers;

    strategy::ReplicaOptions replica_options;
    replica_options.parameters = parameters();
    replica_options.strategy = options_.strategy;
    // After a failure the replica counts from the checkpoint on.
    std::int64_t& total = replica_options.strategy.total_steps;
    total = std::max<std::int64_t>(total - static_cast<std::int64_t>(checkpoint_now()), 0);
    replica_options.optimizer = options_.optimizer;
    const bool phantom = options_.learner == nullptr;
    replica_options.phantom = phantom;
    GEARSHIFT_ASSIGN_OR_RETURN(
        const auto optimizer,
        strategy::LocalOptimizer::create(replica_options.parameters, options_.optimizer, phantom));
    replica_options.bridge = optimizer.get();
    GEARSHIFT_ASSIGN_OR_RETURN(const auto replica,
                               strategy::Replica::create(environment, std::move(replica_options)));
    if (!phantom) {
      GEARSHIFT_RETURN_IF_ERROR(
          call_learner([&] { return options_.learner->begin(rank, *replica); }));
    }
    GEARSHIFT_RETURN_IF_ERROR(replica->start());
    GEARSHIFT_RETURN_IF_ERROR(collectives::barrier(workers));
    GEARSHIFT_RETURN_IF_ERROR(train(rank, world, *replica, *optimizer));
    GEARSHIFT_RETURN_IF_ERROR(replica->stop());
    return world.size() > environment.workers_count
               ? strategy::release_servers(world, environment.workers_count)
               : base::Status();
  }

  base::Status train(int rank, group::Group& world, strategy::Replica& replica,
                     strategy::LocalOptimizer& optimizer) {
    begin_or_resume();
    const Pace pace(options_.cluster, options_.workload, rank, options_.seed);
    const transport::Traffic before = world.traffic();
    PacedWorker::Options paced = options_of(rank, pace);
    if (steady_) watch(rank, world, paced);
    if (!options_.cluster.failures.empty()) remember(rank, paced);
    PacedWorker worker(job_.scheduler(), replica, &optimizer, std::move(paced));
    WorkerResult& result = result_.workers[static_cast<std::size_t>(rank)];
    worker.result() = std::move(result);
    const base::Status status = worker.run(*start_);
    const transport::Traffic after = world.traffic();
    result = std::move(worker.result());
    result.bytes_sent += after.bytes_sent - before.bytes_sent;
    result.messages_sent += after.messages_sent - before.messages_sent;
    if (rank == 0) result_.switches = worker.switches();
    if (rank == 0) result_.curve = worker.curve();
    const base::TimePoint now = job_.scheduler().now();
    result_.virtual_seconds = std::max(result_.virtual_seconds, base::to_seconds(now - *start_));
    return status;
  }

  PacedWorker::Options options_of(int rank, const Pace& pace) {
    PacedWorker::Options paced;
    paced.workload = &options_.workload;
    paced.pace = &pace;
    paced.hypers = options_.hypers;
    paced.first_step = static_cast<int>(checkpoint_) + 1;
    paced.steps = options_.steps;
    if (options_.timeline) {
      paced.on_span = [this](const Span& span) { result_.timeline.push_back(span); };
    }
    if (rank == 0) paced.on_step = options_.on_step;
    if (rank == 0) paced.evaluate_every = options_.evaluate_every;
    paced.learner = options_.learner.get();
    paced.steps_per_epoch = options_.steps_per_epoch;
    return paced;
  }

  /// Lets a worker do only the steps that are to be simulated.
  void watch(int rank, group::Group& world, PacedWorker::Options& paced) {
    paced.begins = [this](int step) { return steady_->begin(step); };
    paced.on_milestone = [this, rank, &world](Milestone milestone) {
      const transport::Traffic traffic = world.traffic();
      milestone.bytes_sent = traffic.bytes_sent;
      milestone.messages_sent = traffic.messages_sent;
      steady_->end(rank, milestone);
    };
    if (!paced.on_step) return;
    paced.on_step = [this, on_step = options_.on_step](int step) {
      on_step(steady_->number(step));
    };
  }

  /// Keeps what a restart undoes, and what it must not: with failures, every step is simulated.
  void remember(int rank, PacedWorker::Options& paced) {
    const auto i = static_cast<std::size_t>(rank);
    paced.begins = [this, i](int step) {
      if (step > options_.steps) return false;
      std::vector<double>& begins = first_begins_[i];
      if (begins.size() < static_cast<std::size_t>(step)) {
        begins.push_back(base::to_seconds(job_.scheduler().now() - *start_));
      }
      return true;
    };
    paced.on_milestone = [this, i](const Milestone& milestone) {
      sums_[i].push_back({milestone.exposed_seconds, milestone.communication_seconds});
    };
  }

  /// Of one worker: its steps after the checkpoint are lost.
  void undo(WorkerResult& worker) {
    result_.repeated_steps += static_cast<std::int64_t>(worker.steps.size() - checkpoint_);
    worker.steps.resize(checkpoint_);
    std::vector<Sums>& sums = sums_[static_cast<std::size_t>(worker.rank)];
    sums.resize(checkpoint_);
    const Sums kept = sums.empty() ? Sums{} : sums.back();
    worker.exposed_seconds = kept.exposed_seconds;
    worker.communication_seconds = kept.communication_seconds;
  }

  /// From which training goes on: after a failure the last one that all had reached.
  std::size_t checkpoint_now() const {
    if (job_.restarts() == result_.restarts) return checkpoint_;
    if (options_.checkpoint_every == 0) return 0;
    std::size_t reached = result_.workers[0].steps.size();
    for (const WorkerResult& worker : result_.workers) {
      reached = std::min(reached, worker.steps.size());
    }
    return reached - reached % static_cast<std::size_t>(options_.checkpoint_every);
  }

  /// The first worker that is ready begins training for all; after a failure, from the checkpoint.
  void begin_or_resume() {
    if (start_ && job_.restarts() == result_.restarts) return;
    if (!start_) {
      start_ = job_.scheduler().now();
      job_.network().platform().reset_counts();
    } else {
      checkpoint_ = checkpoint_now();
      result_.restarts = job_.restarts();
      for (WorkerResult& worker : result_.workers) undo(worker);
    }
    job_.faults().begin(*start_);
  }

  void note_transfer(int from, int to, base::TimePoint begin) {
    const base::TimePoint end = job_.scheduler().now();
    if (!start_ || end <= *start_) return;
    begin = std::max(begin, *start_);  // workers meet until then
    result_.timeline.push_back({from, "wire to " + std::to_string(to), "message",
                                base::to_seconds(begin - *start_),
                                base::to_seconds(end - *start_)});
  }

  const SimulationOptions& options_;
  Job& job_;
  std::optional<base::TimePoint> start_;
  std::optional<SteadyState> steady_;
  /// Of a worker's steps, until the end of one.
  struct Sums {
    double exposed_seconds = 0, communication_seconds = 0;
  };
  std::vector<std::vector<double>> first_begins_;  ///< by rank: WorkerResult::first_begins
  std::vector<std::vector<Sums>> sums_;            ///< by rank, after each step that is kept
  std::size_t checkpoint_ = 0;  ///< steps of each worker that the latest one holds
  SimulationResult result_;
};

/// What happens to a training whose hosts fail, and cannot be simulated.
base::Status check_failures(const SimulationOptions& options) {
  const auto& failures = options.cluster.failures;
  const bool restarts = std::any_of(failures.begin(), failures.end(),
                                    [](const Failure& f) { return f.recovers_at.has_value(); });
  if (!restarts) return {};
  const char* what = nullptr;
  if (options.learner) what = "with a learner, whose checkpoints would have to be kept";
  if (std::holds_alternative<strategy::StrategySwitch>(options.strategy.kind)) {
    what = "under a strategy that switches";
  }
  if (what == nullptr) return {};
  return base::Error(base::ErrorCode::kUnsupported,
                     std::string("hosts that recover from a failure cannot be simulated ") + what);
}

base::Error invalid_option(const std::string& what) {
  return {base::ErrorCode::kInvalidArgument, what};
}

/// Refuses what would not end before the virtual clock does.
base::Status check_length(const SimulationOptions& options) {
  constexpr double kClockEnd = 9e9;
  const Workload& workload = options.workload;
  double slowest = 0;
  for (const Host& host : options.cluster.hosts) {
    double factor = 1 / host.speed;
    for (const Straggler& straggler : options.cluster.stragglers) {
      if (straggler.host == host.name) factor *= std::max(straggler.factor, 1.0);
    }
    slowest = std::max(slowest, factor);
  }
  const double step = workload.forward_seconds + workload.backward_seconds;
  const double total = slowest * (step + workload.optimizer_seconds) * options.steps;
  if (total <= kClockEnd) return {};
  return invalid_option(std::to_string(options.steps) + " steps would take " + shown(total) +
                        " s, and the virtual clock goes to " + shown(kClockEnd) + " s");
}

/// Groups that are too great the optimizer refuses.
base::Status check_param_groups(const SimulationOptions& options) {
  const std::size_t parameters = options.workload.parameters.size();
  if (options.param_groups.empty() || options.param_groups.size() == parameters) return {};
  return invalid_option("param_groups has " + std::to_string(options.param_groups.size()) +
                        " entries, the workload " + std::to_string(parameters) + " parameters");
}

/// Phantoms go by messages always, so that the core would not find out.
base::Status check_window(const SimulationOptions& options) {
  const auto asks = [](const strategy::Phase& phase) {
    const auto* all_reduce = std::get_if<strategy::AllReduce>(&phase);
    return all_reduce != nullptr && all_reduce->algorithm == collectives::Algorithm::kWindow;
  };
  const auto& kind = options.strategy.kind;
  const auto* both = std::get_if<strategy::StrategySwitch>(&kind);
  const auto* only = std::get_if<strategy::AllReduce>(&kind);
  const bool asked =
      both != nullptr ? asks(both->start) || asks(both->then) : only != nullptr && asks(*only);
  const Cluster& cluster = options.cluster;
  if (!asked || cluster.host_of(cluster.workers() - 1) == cluster.host_of(0)) return {};
  return base::Error(base::ErrorCode::kUnsupported,
                     "all_reduce (window): workers on several hosts cannot map each other's "
                     "memory; leave the choice of the algorithm to \"auto\"");
}

base::Status check(const SimulationOptions& options) {
  GEARSHIFT_RETURN_IF_ERROR(validate(options.cluster));
  if (const auto problem = find_problem(options.workload)) {
    return invalid_option("workload: " + problem->to_string());
  }
  if (options.learner) {
    GEARSHIFT_RETURN_IF_ERROR(
        call_learner([&] { return options.learner->check(options.workload); }));
  }
  if (options.steps < 1) {
    return invalid_option("steps must be positive, this is " + std::to_string(options.steps));
  }
  GEARSHIFT_RETURN_IF_ERROR(check_length(options));
  if (options.checkpoint_every < 0) {
    return invalid_option("checkpoint_every must not be negative, this is " +
                          std::to_string(options.checkpoint_every));
  }
  GEARSHIFT_RETURN_IF_ERROR(check_param_groups(options));
  if (!(options.steady_tolerance >= 0 && options.steady_tolerance < 1)) {
    return invalid_option("steady_tolerance must be a share, at least 0 and below 1, this is " +
                          std::to_string(options.steady_tolerance));
  }
  GEARSHIFT_RETURN_IF_ERROR(check_failures(options));
  GEARSHIFT_RETURN_IF_ERROR(check_window(options));
  return options.strategy.validate(options.cluster.workers(), options.cluster.servers());
}

}  // namespace

base::Result<SimulationResult> simulate(const SimulationOptions& options) {
  GEARSHIFT_RETURN_IF_ERROR(check(options));
  const auto wall_clock = base::make_os_scheduler();
  const base::TimePoint begin = wall_clock->now();
  GEARSHIFT_ASSIGN_OR_RETURN(const auto job,
                             Job::create(options.cluster, options.timeout,
                                         options.learner ? kLearnerStackBytes : kStackBytes,
                                         options.detection, options.sharing));
  auto result = Training(options, *job).run();
  if (result) {
    result->wall_seconds = base::to_seconds(wall_clock->now() - begin);
  }
  return result;
}

}  // namespace gearshift::sim
