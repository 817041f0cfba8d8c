#pragma once

#include <cstdint>

#include "gearshift/sim/cluster.h"
#include "gearshift/sim/workload.h"

namespace gearshift::sim {

/// How long a worker's computation takes in a step, relative to the workload's profile: its host's
/// speed, the variability and the stragglers. A pure function of its arguments: the same worker is
/// as fast in every strategy that is compared.
class Pace {
 public:
  Pace(const Cluster& cluster, const Workload& workload, int rank, std::uint64_t seed);

  /// `step` counts from 1. Greater than 0.
  double factor(std::int64_t step) const;

 private:
  double variation(std::int64_t step) const;
  double straggling(std::int64_t step) const;

  const Cluster& cluster_;
  const Host& host_;
  const Variability& variability_;
  const double mean_;  ///< of the empirical factors
  const int rank_;
  const std::uint64_t seed_;
};

}  // namespace gearshift::sim
