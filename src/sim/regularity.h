#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "gearshift/sim/simulate.h"

namespace gearshift::sim {

/// How far what a simulation is told to do is the same in every step.
struct Regularity {
  std::int64_t from = 1;    ///< the first step from which it is; counts from 1
  std::int64_t period = 1;  ///< steps after which all is the same again
  bool varies = false;      ///< but for what varies at random, in all steps alike
  bool loose = false;       ///< workers do not wait for each other in every step,
  bool apart = false;       ///< or never, and may go far apart
};

/// Absent: never. Values are learnt, hosts fail or straggle at random, the strategy may switch at a
/// step that is not known beforehand, or what is asked for needs every step (a timeline).
std::optional<Regularity> regularity(const SimulationOptions& options);

/// How long computation takes in each step from the first one, relative to the workload's profile:
/// what is known of a step before it is simulated.
struct Load {
  std::vector<double> mean, most;  ///< of the workers; empty: always the same
};

Load load(const SimulationOptions& options);

}  // namespace gearshift::sim
