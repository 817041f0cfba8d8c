#pragma once

#include <cstdint>
#include <optional>

#include "gearshift/sim/simulate.h"

namespace gearshift::sim {

/// How far what a simulation is told to do is the same in every step.
struct Regularity {
  std::int64_t from = 1;    ///< the first step from which it is; counts from 1
  std::int64_t period = 1;  ///< steps after which computation takes as long again
};

/// Absent: never. Computation varies, values are learnt, hosts fail, the strategy may switch at a
/// step that is not known beforehand, or what is asked for needs every step (a timeline).
std::optional<Regularity> regularity(const SimulationOptions& options);

}  // namespace gearshift::sim
