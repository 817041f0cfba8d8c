#include "gearshift/sim/paced_job.h"

#include <string>
#include <utility>

#include "gearshift/collectives/collectives.h"
#include "gearshift/strategy/local_optimizer.h"
#include "sim/paced_worker.h"

namespace gearshift::sim {

base::Result<PacedResult> run_paced(const SimulationOptions& job, int rank, group::Group& workers,
                                    const Distribute& distribute) {
  if (job.cluster.workers() != workers.size()) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "the cluster has " + std::to_string(job.cluster.workers()) +
                           " workers, this job " + std::to_string(workers.size()));
  }
  strategy::ReplicaOptions options;
  options.parameters = job.workload.specs();
  options.strategy = job.strategy;
  options.optimizer = job.optimizer;
  GEARSHIFT_ASSIGN_OR_RETURN(const auto bridge,
                             strategy::LocalOptimizer::create(options.parameters, job.optimizer));
  options.bridge = bridge.get();
  GEARSHIFT_ASSIGN_OR_RETURN(const auto replica, distribute(std::move(options)));
  GEARSHIFT_RETURN_IF_ERROR(replica->start());
  GEARSHIFT_RETURN_IF_ERROR(collectives::barrier(workers));
  PacedResult result;
  const Pace pace(job.cluster, job.workload, rank, job.seed);
  PacedWorker::Options paced;
  paced.workload = &job.workload;
  paced.pace = &pace;
  paced.hypers = job.hypers;
  paced.steps = job.steps;
  if (job.timeline) {
    paced.on_span = [&result](const Span& span) { result.timeline.push_back(span); };
  }
  paced.on_step = job.on_step;
  // Under All-Reduce, a worker's own update is slept, not done.
  PacedWorker worker(workers.scheduler(), *replica, nullptr, std::move(paced));
  worker.result().rank = rank;
  worker.result().host =
      job.cluster.hosts[static_cast<std::size_t>(job.cluster.host_of(rank))].name;
  result.start = workers.scheduler().now();
  GEARSHIFT_RETURN_IF_ERROR(worker.run(result.start));
  GEARSHIFT_RETURN_IF_ERROR(replica->stop());
  result.worker = std::move(worker.result());
  result.switches = worker.switches();
  return result;
}

}  // namespace gearshift::sim
