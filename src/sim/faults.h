#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/sim/cluster.h"
#include "sim/job_monitor.h"
#include "sim/simgrid/network.h"

namespace gearshift::sim {

/// Hosts that fail while a job trains. A host that fails falls silent: what is sent to it, or by
/// it, arrives nowhere. After `detection` the others know, and the job ends, as a real one does.
/// Not thread-safe, like its scheduler.
class Faults {
 public:
  Faults(const Cluster& cluster, base::Duration detection, SimScheduler& scheduler,
         Network& network, JobMonitor& monitor);

  /// Training begins at `start`, from which the failures count. Once; later calls do nothing.
  void begin(base::TimePoint start);
  /// The job has ended, for whatever reason.
  void end();
  /// When the host that ended the job, and all that failed until then, are back, if one did and all
  /// come back. It is no longer silent.
  std::optional<base::TimePoint> recovery();

 private:
  void run();
  /// False when the job has ended before.
  bool wait_until(base::TimePoint when);
  base::TimePoint at(double seconds) const { return *start_ + base::from_seconds(seconds); }

  const Cluster& cluster_;
  const base::Duration detection_;
  SimScheduler& scheduler_;
  Network& network_;
  JobMonitor& monitor_;
  std::vector<Failure> failures_;  ///< in the order of their times
  std::size_t next_ = 0;           ///< of them
  bool happened_ = false;          ///< that one ended the job
  std::optional<base::TimePoint> start_;
  std::unique_ptr<base::Monitor> ending_;
  bool ended_ = false;
  std::unique_ptr<base::Task> task_;
};

}  // namespace gearshift::sim
