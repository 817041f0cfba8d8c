#include "gearshift/sim/simulate.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <simgrid/s4u/Engine.hpp>
#include <utility>

#include "gearshift/collectives/collectives.h"
#include "sim/job_monitor.h"
#include "sim/paced_worker.h"
#include "sim/simgrid/network.h"
#include "sim/simgrid/scheduler.h"

namespace gearshift::sim {
namespace {

namespace sg4 = simgrid::s4u;

/// Of every actor's stack. Pages that are never touched cost nothing.
constexpr int kStackKib = 256;

void configure_engine() {
  // Links share their bandwidth fairly and lose nothing: what TCP costs is in the rates given.
  sg4::Engine::set_config("network/model:CM02");
  sg4::Engine::set_config("network/crosstraffic:0");
  sg4::Engine::set_config("network/TCP-gamma:0");
  sg4::Engine::set_config("contexts/factory:raw");
  sg4::Engine::set_config("contexts/guard-size:0");
  sg4::Engine::set_config("contexts/stack-size:" + std::to_string(kStackKib));
}

/// One simulated job. Everything happens in one thread.
class Simulation {
 public:
  explicit Simulation(const SimulationOptions& options)
      : options_(options),
        network_(scheduler_, options.cluster, options.timeout),
        monitor_([this](const base::Error& error) { network_.abort(error); }),
        worlds_(static_cast<std::size_t>(network_.ranks())) {}

  base::Result<SimulationResult> run(sg4::Engine& engine) {
    const int workers = options_.cluster.workers();
    result_.workers.resize(static_cast<std::size_t>(workers));
    // A task joins when it is destroyed, which must not happen outside of the simulation.
    static_cast<void>(
        scheduler_.spawn_on(network_.host(0), "main", [this] { run_job(); }).release());
    engine.run();
    if (const auto failure = monitor_.failure()) return *failure;
    result_.messages = network_.messages();
    result_.links = network_.platform().link_use();
    return std::move(result_);
  }

 private:
  void run_job() {
    const int workers = options_.cluster.workers();
    std::vector<std::unique_ptr<base::Task>> tasks;
    for (int rank = 0; rank < network_.ranks(); ++rank) {
      const bool worker = rank < workers;
      tasks.push_back(scheduler_.spawn_on(
          network_.host(rank), (worker ? "worker " : "server ") + std::to_string(rank),
          [this, rank, worker] { note(rank, worker ? work(rank) : serve(rank)); }));
    }
    for (const auto& task : tasks) task->join();
    worlds_.clear();
    network_.stop();
  }

  strategy::Environment enter(int rank) {
    std::unique_ptr<group::Group>& world = worlds_[static_cast<std::size_t>(rank)];
    world = network_.join(rank);
    strategy::Environment environment;
    environment.world = world.get();
    environment.monitor = &monitor_;
    environment.workers_count = options_.cluster.workers();
    return environment;
  }

  base::Status serve(int rank) { return strategy::run_server(enter(rank)); }

  base::Status work(int rank) {
    strategy::Environment environment = enter(rank);
    group::Group* const world = environment.world;
    std::vector<base::Rank> ranks;
    for (int r = 0; r < environment.workers_count; ++r) ranks.emplace_back(r);
    group::Group workers = world->subgroup(ranks, 1);
    environment.workers = &workers;

    strategy::ReplicaOptions replica_options;
    replica_options.parameters = options_.workload.specs();
    replica_options.strategy = options_.strategy;
    replica_options.optimizer = options_.optimizer;
    replica_options.phantom = true;
    GEARSHIFT_ASSIGN_OR_RETURN(
        const auto optimizer,
        strategy::LocalOptimizer::create(replica_options.parameters, options_.optimizer, true));
    replica_options.bridge = optimizer.get();
    GEARSHIFT_ASSIGN_OR_RETURN(const auto replica,
                               strategy::Replica::create(environment, std::move(replica_options)));
    GEARSHIFT_RETURN_IF_ERROR(replica->start());
    GEARSHIFT_RETURN_IF_ERROR(collectives::barrier(workers));
    GEARSHIFT_RETURN_IF_ERROR(train(rank, *world, *replica, *optimizer));
    GEARSHIFT_RETURN_IF_ERROR(replica->stop());
    return network_.ranks() > environment.workers_count
               ? strategy::release_servers(*world, environment.workers_count)
               : base::Status();
  }

  base::Status train(int rank, group::Group& world, strategy::Replica& replica,
                     strategy::LocalOptimizer& optimizer) {
    if (!start_) start_ = scheduler_.now();
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
    const transport::Traffic before = world.traffic();
    PacedWorker worker(scheduler_, replica, &optimizer, std::move(paced));
    worker.result().rank = rank;
    const base::Status status = worker.run(*start_);
    const transport::Traffic after = world.traffic();
    WorkerResult& result = result_.workers[static_cast<std::size_t>(rank)];
    result = worker.result();
    result.host =
        options_.cluster.hosts[static_cast<std::size_t>(options_.cluster.host_of(rank))].name;
    result.bytes_sent = after.bytes_sent - before.bytes_sent;
    result.messages_sent = after.messages_sent - before.messages_sent;
    if (rank == 0) result_.switches = worker.switches();
    if (!result.steps.empty()) {
      result_.virtual_seconds = std::max(result_.virtual_seconds, result.steps.back().end);
    }
    return status;
  }

  void note(int rank, const base::Status& status) {
    if (!status) monitor_.fail(status.error().within("simulated rank " + std::to_string(rank)));
  }

  const SimulationOptions& options_;
  SimScheduler scheduler_;
  Network network_;
  JobMonitor monitor_;
  /// By rank. They end together: a rank that is ready closes nothing that another still uses.
  std::vector<std::unique_ptr<group::Group>> worlds_;
  std::optional<base::TimePoint> start_;
  SimulationResult result_;
};

base::Status check(const SimulationOptions& options) {
  GEARSHIFT_RETURN_IF_ERROR(validate(options.cluster));
  const auto invalid = [](const std::string& what) {
    return base::Error(base::ErrorCode::kInvalidArgument, what);
  };
  if (options.workload.parameters.empty()) return invalid("the workload has no parameters");
  if (options.steps < 1) {
    return invalid("steps must be positive, this is " + std::to_string(options.steps));
  }
  return options.strategy.validate(options.cluster.workers(), options.cluster.servers());
}

}  // namespace

base::Result<SimulationResult> simulate(const SimulationOptions& options) {
  GEARSHIFT_RETURN_IF_ERROR(check(options));
  static std::atomic<bool> used{false};
  if (used.exchange(true)) {
    return base::Error(base::ErrorCode::kUnsupported,
                       "a process can simulate once: start one for each simulation");
  }
  const auto begin = std::chrono::steady_clock::now();
  int argc = 2;
  char name[] = "gearshift", quiet[] = "--log=root.thresh:error";
  char* argv[] = {name, quiet, nullptr};
  sg4::Engine engine(&argc, argv);
  configure_engine();
  auto result = Simulation(options).run(engine);
  if (result) {
    result->wall_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  return result;
}

}  // namespace gearshift::sim
