#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/sim/cluster.h"
#include "gearshift/sim/simulate.h"
#include "gearshift/strategy/replica.h"
#include "sim/faults.h"
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
  static base::Result<std::unique_ptr<Job>> create(
      const Cluster& cluster, base::Duration timeout, std::size_t stack_bytes,
      base::Duration detection = std::chrono::seconds(30), Sharing sharing = Sharing::kAuto);
  ~Job();

  /// What a rank does; the environment has no `workers` group yet.
  using Body = std::function<base::Status(int rank, strategy::Environment environment)>;
  /// Runs the body on every rank; once, and again each time that a failed host is back. The first
  /// error ends the job for all ranks. Failures of hosts count from `faults().begin`.
  base::Status run(const Body& body);

  SimScheduler& scheduler() { return scheduler_; }
  Network& network() { return network_; }
  Faults& faults() { return faults_; }
  /// How often the body has been begun anew on all ranks.
  int restarts() const { return restarts_; }

 private:
  /// `sharing` is not kAuto.
  Job(const Cluster& cluster, base::Duration timeout, std::size_t stack_bytes,
      base::Duration detection, Sharing sharing, std::unique_ptr<simgrid::s4u::Engine> engine);
  void break_links(const base::Error& error);
  void run_until_done(const Body& body);
  void run_ranks(const Body& body);
  base::Status run_rank(int rank, const Body& body);

  const Cluster& cluster_;
  std::unique_ptr<simgrid::s4u::Engine> engine_;
  SimScheduler scheduler_;
  Network network_;
  JobMonitor monitor_;
  Faults faults_;
  int restarts_ = 0;
  /// By rank. They end together: a rank that is ready closes nothing that another still uses.
  std::vector<std::unique_ptr<group::Group>> worlds_;
};

}  // namespace gearshift::sim
