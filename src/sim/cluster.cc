#include "gearshift/sim/cluster.h"

#include <cassert>

#include "sim/check.h"

namespace gearshift::sim {

std::string Problem::to_string() const {
  std::string where = section;
  if (index) where += "[" + std::to_string(*index) + "]";
  if (!where.empty() && !key.empty()) where += ".";
  return where + key + ": " + what;
}

int Cluster::workers() const {
  int sum = 0;
  for (const Host& host : hosts) sum += host.workers;
  return sum;
}

int Cluster::servers() const {
  int sum = 0;
  for (const Host& host : hosts) sum += host.servers;
  return sum;
}

int Cluster::host_of(int rank) const {
  assert(rank >= 0 && rank < workers() + servers());
  int begin = 0;  // the first rank of a host's workers, then of its servers
  for (const auto processes : {&Host::workers, &Host::servers}) {
    for (std::size_t i = 0; i < hosts.size(); ++i) {
      begin += hosts[i].*processes;
      if (rank < begin) return static_cast<int>(i);
    }
  }
  return -1;
}

base::Status validate(const Cluster& cluster) {
  const auto problem = find_problem(cluster);
  if (!problem) return {};
  return base::Error(base::ErrorCode::kInvalidArgument, problem->to_string());
}

}  // namespace gearshift::sim
