#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/sim/cluster.h"
#include "gearshift/strategy/replica.h"
#include "sim/job_monitor.h"
#include "sim/simgrid/network.h"
#include "sim/simgrid/scheduler.h"

namespace simgrid::s4u {
class Engine;
}

namespace gearshift::sim {

/// A job on a simulated cluster: its ranks are tasks on a virtual clock, its world is a simulated
/// network. Everything happens in the thread that calls `run`. One per process: SimGrid cannot be
/// set up twice.
class Job {
 public:
  /// The cluster is valid and outlives the job. `stack_bytes` of every task. kUnsupported when this
  /// process has had a job.
  static base::Result<std::unique_ptr<Job>> create(const Cluster& cluster, base::Duration timeout,
                                                   std::size_t stack_bytes);
  ~Job();

  /// What a rank does; the environment has no `workers` group yet.
  using Body = std::function<base::Status(int rank, strategy::Environment environment)>;
  /// Runs the body on every rank; once. The first error ends the job for all ranks.
  base::Status run(const Body& body);

  SimScheduler& scheduler() { return scheduler_; }
  Network& network() { return network_; }

 private:
  Job(const Cluster& cluster, base::Duration timeout, std::unique_ptr<simgrid::s4u::Engine> engine);
  void run_ranks(const Body& body);
  base::Status run_rank(int rank, const Body& body);

  const Cluster& cluster_;
  const std::unique_ptr<simgrid::s4u::Engine> engine_;
  SimScheduler scheduler_;
  Network network_;
  JobMonitor monitor_;
  /// By rank. They end together: a rank that is ready closes nothing that another still uses.
  std::vector<std::unique_ptr<group::Group>> worlds_;
};

}  // namespace gearshift::sim
