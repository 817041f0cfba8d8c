#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "gearshift/collectives/collectives.h"

namespace gearshift::collectives {

/// The α–β–γ model: a message of n bytes takes latency + n · seconds_per_byte; combining n bytes
/// takes n · reduce_seconds_per_byte.
struct LinkModel {
  double latency = 20e-6;
  double seconds_per_byte = 1.0 / 1.2e9;
  double reduce_seconds_per_byte = 1.0 / 8e9;
};

struct Choice {
  Algorithm algorithm = Algorithm::kRing;
  double predicted_seconds = 0;
  std::string reason;  ///< one line for `explain`: the candidates with their predicted times
};

/// Predicted time of an all-reduce of `bytes` over `ranks`; kAuto: that of the fastest algorithm.
double predict(Algorithm algorithm, std::size_t bytes, int ranks, const LinkModel& link);
/// The fastest algorithm by the model, without an explanation: allocates nothing.
Algorithm fastest(std::size_t bytes, int ranks, const LinkModel& link);
/// The fastest algorithm by the model. Deterministic: equal inputs choose equally on all ranks.
Choice choose(std::size_t bytes, int ranks, const LinkModel& link);

/// Whether a broadcast is faster along a pipelined chain than down a binomial tree.
bool broadcast_prefers_chain(std::size_t bytes, int ranks, const LinkModel& link);

}  // namespace gearshift::collectives
