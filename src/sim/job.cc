#include "sim/job.h"

#include <atomic>
#include <simgrid/s4u/Engine.hpp>
#include <utility>

namespace gearshift::sim {

namespace sg4 = simgrid::s4u;

namespace {

void configure(std::size_t stack_bytes) {
  // Links share their bandwidth fairly and lose nothing: what TCP costs is in the rates given.
  sg4::Engine::set_config("network/model:CM02");
  sg4::Engine::set_config("network/crosstraffic:0");
  sg4::Engine::set_config("network/TCP-gamma:0");
  sg4::Engine::set_config("contexts/factory:raw");
  sg4::Engine::set_config("contexts/guard-size:0");
  sg4::Engine::set_config("contexts/stack-size:" + std::to_string(stack_bytes / 1024));
}

Sharing resolved(Sharing sharing, const Cluster& cluster) {
  if (sharing != Sharing::kAuto) return sharing;
  const bool few = cluster.workers() + cluster.servers() <= kMaxMinRanks;
  return few ? Sharing::kMaxMin : Sharing::kPerLink;
}

}  // namespace

base::Result<std::unique_ptr<Job>> Job::create(const Cluster& cluster, base::Duration timeout,
                                               std::size_t stack_bytes, base::Duration detection,
                                               Sharing sharing) {
  GEARSHIFT_RETURN_IF_ERROR(validate(cluster));
  static std::atomic<bool> used{false};
  if (used.exchange(true)) {
    return base::Error(base::ErrorCode::kUnsupported,
                       "a process can simulate once: start one for each simulation");
  }
  int argc = 2;
  char name[] = "gearshift", quiet[] = "--log=root.thresh:error";
  char* argv[] = {name, quiet, nullptr};
  auto engine = std::make_unique<sg4::Engine>(&argc, argv);
  configure(stack_bytes);
  return std::unique_ptr<Job>(new Job(cluster, timeout, stack_bytes, detection,
                                      resolved(sharing, cluster), std::move(engine)));
}

Job::Job(const Cluster& cluster, base::Duration timeout, std::size_t stack_bytes,
         base::Duration detection, Sharing sharing, std::unique_ptr<sg4::Engine> engine)
    : cluster_(cluster),
      engine_(std::move(engine)),
      scheduler_(sharing, stack_bytes),
      network_(scheduler_, cluster, timeout, sharing),
      monitor_([this](const base::Error& error) { break_links(error); }),
      faults_(cluster, detection, scheduler_, network_, monitor_),
      worlds_(static_cast<std::size_t>(network_.ranks())) {}

Job::~Job() = default;

base::Status Job::run(const Body& body) {
  // A task joins when it is destroyed, which must not happen outside of the simulation.
  static_cast<void>(
      scheduler_.spawn_on(network_.host(0), "main", [this, &body] { run_until_done(body); })
          .release());
  const bool ended = scheduler_.run();
  // Its destructor would unwind the tasks that are left, after what they use is gone.
  if (!ended) static_cast<void>(engine_.release());
  if (const auto failure = monitor_.failure()) return *failure;
  if (ended) return {};
  return base::Error(base::ErrorCode::kAborted,
                     "the simulation stands still: tasks wait for each other");
}

void Job::break_links(const base::Error& error) {
  network_.abort(error);
  for (const auto& world : worlds_) {
    if (world) world->context()->loopback->abort(error);
  }
}

void Job::run_until_done(const Body& body) {
  run_ranks(body);
  while (const auto recovery = faults_.recovery()) {
    scheduler_.sleep_until(*recovery);
    monitor_.reset();
    network_.restart();
    ++restarts_;
    run_ranks(body);
  }
  network_.stop();
}

void Job::run_ranks(const Body& body) {
  const int workers = cluster_.workers();
  std::vector<std::unique_ptr<base::Task>> tasks;
  for (int rank = 0; rank < network_.ranks(); ++rank) {
    const char* role = rank < workers ? "worker " : "server ";
    tasks.push_back(
        scheduler_.spawn_on(network_.host(rank), role + std::to_string(rank), [this, rank, &body] {
          const base::Status status = run_rank(rank, body);
          if (status) return;
          monitor_.fail(status.error().within("simulated rank " + std::to_string(rank)));
        }));
  }
  for (const auto& task : tasks) task->join();
  faults_.end();
  for (auto& world : worlds_) world.reset();
}

base::Status Job::run_rank(int rank, const Body& body) {
  std::unique_ptr<group::Group>& world = worlds_[static_cast<std::size_t>(rank)];
  world = network_.join(rank);
  strategy::Environment environment;
  environment.world = world.get();
  environment.workers_count = cluster_.workers();
  environment.monitor = &monitor_;
  return body(rank, environment);
}

}  // namespace gearshift::sim
