#pragma once

#include <cstddef>
#include <string>

#include "gearshift/sim/cluster.h"
#include "gearshift/sim/workload.h"

namespace gearshift::sim::testing {

inline constexpr std::size_t kStack = 256 * 1024;  ///< bytes, of a simulated task

/// Equal hosts at one switch, with a worker each, that lose no time but on their interfaces.
inline Cluster ideal_cluster(int workers, double bandwidth = 1e9, int servers = 0) {
  Cluster cluster;
  cluster.name = "ideal";
  for (int i = 0; i < workers + servers; ++i) {
    Host host;
    host.name = "node-" + std::to_string(i);
    host.workers = i < workers ? 1 : 0;
    host.servers = i < workers ? 0 : 1;
    host.bandwidth = bandwidth;
    host.latency = 0;
    host.model = {.local_bandwidth = 1e15,
                  .local_latency = 0,
                  .per_message = 0,
                  .reduce_bandwidth = 1e15,
                  .update_bandwidth = 1e15,
                  .copy_bandwidth = 1e15};
    cluster.hosts.push_back(host);
  }
  return cluster;
}

/// One parameter of `elements` float32; all of its communication is exposed.
inline Workload one_parameter(std::int64_t elements) {
  Workload workload;
  workload.name = "one parameter";
  workload.batch_size = 8;
  workload.forward_seconds = 0.010;
  workload.backward_seconds = 0.020;
  workload.optimizer_seconds = 0.005;
  workload.parameters.push_back({"weight", {elements}, base::DType::kF32, 0.020});
  return workload;
}

}  // namespace gearshift::sim::testing
