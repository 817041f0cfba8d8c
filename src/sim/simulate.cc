#include "gearshift/sim/simulate.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "gearshift/collectives/collectives.h"
#include "sim/check.h"
#include "sim/job.h"
#include "sim/paced_worker.h"

namespace gearshift::sim {
namespace {

/// Of every task. Pages that are never touched cost nothing. A learner may be a whole framework.
constexpr std::size_t kStackBytes = std::size_t{256} << 10;
constexpr std::size_t kLearnerStackBytes = std::size_t{8} << 20;

/// A training; without a learner every replica is a phantom.
class Training {
 public:
  Training(const SimulationOptions& options, Job& job) : options_(options), job_(job) {}

  base::Result<SimulationResult> run() {
    if (options_.timeline) {
      job_.network().on_transfer(
          [this](int from, int to, base::TimePoint begin) { note_transfer(from, to, begin); });
    }
    result_.workers.resize(static_cast<std::size_t>(options_.cluster.workers()));
    GEARSHIFT_RETURN_IF_ERROR(job_.run([this](int rank, strategy::Environment environment) {
      return rank < environment.workers_count ? work(rank, environment)
                                              : strategy::run_server(environment);
    }));
    result_.messages = job_.network().messages();
    result_.links = job_.network().platform().link_use();
    return std::move(result_);
  }

 private:
  base::Status work(int rank, strategy::Environment environment) {
    group::Group& world = *environment.world;
    std::vector<base::Rank> ranks;
    for (int r = 0; r < environment.workers_count; ++r) ranks.emplace_back(r);
    group::Group workers = world.subgroup(ranks, 1);
    environment.workers = &workers;

    strategy::ReplicaOptions replica_options;
    replica_options.parameters = options_.workload.specs();
    replica_options.strategy = options_.strategy;
    replica_options.optimizer = options_.optimizer;
    const bool phantom = options_.learner == nullptr;
    replica_options.phantom = phantom;
    GEARSHIFT_ASSIGN_OR_RETURN(
        const auto optimizer,
        strategy::LocalOptimizer::create(replica_options.parameters, options_.optimizer, phantom));
    replica_options.bridge = optimizer.get();
    GEARSHIFT_ASSIGN_OR_RETURN(const auto replica,
                               strategy::Replica::create(environment, std::move(replica_options)));
    if (!phantom) GEARSHIFT_RETURN_IF_ERROR(options_.learner->begin(rank, *replica));
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
    if (!start_) {
      start_ = job_.scheduler().now();
      job_.network().platform().reset_counts();
    }
    const Pace pace(options_.cluster, options_.workload, rank, options_.seed);
    PacedWorker::Options paced;
    paced.workload = &options_.workload;
    paced.pace = &pace;
    paced.hypers = options_.hypers;
    paced.steps = options_.steps;
    if (options_.timeline) {
      paced.on_span = [this](const Span& span) { result_.timeline.push_back(span); };
    }
    if (rank == 0) paced.on_step = options_.on_step;
    if (rank == 0) paced.evaluate_every = options_.evaluate_every;
    paced.learner = options_.learner.get();
    paced.steps_per_epoch = options_.steps_per_epoch;
    const transport::Traffic before = world.traffic();
    PacedWorker worker(job_.scheduler(), replica, &optimizer, std::move(paced));
    worker.result().rank = rank;
    GEARSHIFT_RETURN_IF_ERROR(worker.run(*start_));
    const transport::Traffic after = world.traffic();
    WorkerResult& result = result_.workers[static_cast<std::size_t>(rank)];
    result = std::move(worker.result());
    result.host =
        options_.cluster.hosts[static_cast<std::size_t>(options_.cluster.host_of(rank))].name;
    result.bytes_sent = after.bytes_sent - before.bytes_sent;
    result.messages_sent = after.messages_sent - before.messages_sent;
    if (rank == 0) result_.switches = worker.switches();
    if (rank == 0) result_.curve = worker.curve();
    result_.virtual_seconds = std::max(result_.virtual_seconds, result.steps.back().end);
    return {};
  }

  void note_transfer(int from, int to, base::TimePoint begin) {
    if (!start_ || from >= options_.cluster.workers()) return;
    const base::TimePoint end = job_.scheduler().now();
    result_.timeline.push_back({from, "wire to " + std::to_string(to), "message",
                                base::to_seconds(begin - *start_),
                                base::to_seconds(end - *start_)});
  }

  const SimulationOptions& options_;
  Job& job_;
  std::optional<base::TimePoint> start_;
  SimulationResult result_;
};

base::Status check(const SimulationOptions& options) {
  const auto invalid = [](const std::string& what) {
    return base::Error(base::ErrorCode::kInvalidArgument, what);
  };
  GEARSHIFT_RETURN_IF_ERROR(validate(options.cluster));
  if (const auto problem = find_problem(options.workload)) {
    return invalid("workload: " + problem->to_string());
  }
  if (options.steps < 1) {
    return invalid("steps must be positive, this is " + std::to_string(options.steps));
  }
  if (!options.cluster.failures.empty()) {
    return base::Error(base::ErrorCode::kUnsupported,
                       "the cluster has failures: training ends when a host fails, so simulate it "
                       "without them");
  }
  return options.strategy.validate(options.cluster.workers(), options.cluster.servers());
}

}  // namespace

base::Result<SimulationResult> simulate(const SimulationOptions& options) {
  GEARSHIFT_RETURN_IF_ERROR(check(options));
  const auto wall_clock = base::make_os_scheduler();
  const base::TimePoint begin = wall_clock->now();
  GEARSHIFT_ASSIGN_OR_RETURN(const auto job,
                             Job::create(options.cluster, options.timeout,
                                         options.learner ? kLearnerStackBytes : kStackBytes));
  auto result = Training(options, *job).run();
  if (result) {
    result->wall_seconds = base::to_seconds(wall_clock->now() - begin);
  }
  return result;
}

}  // namespace gearshift::sim
