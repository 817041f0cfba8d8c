#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "gearshift/sim/simulate.h"

namespace gearshift::sim {

/// What a worker has done until the end of a step.
struct Milestone {
  StepTimes times;  ///< of the step
  double exposed_seconds = 0, communication_seconds = 0;
  std::uint64_t bytes_sent = 0, messages_sent = 0;
  std::optional<std::int64_t> staleness;  ///< of the step's push
};

/// What the network has done until then, and what of its state outlives a step.
struct NetworkMilestone {
  std::uint64_t messages = 0;
  std::vector<double> carried;  ///< bytes, by direction
  /// Seconds for which interfaces would have to be idle until token buckets are full, and queues of
  /// ports empty.
  std::vector<double> refills;
};

/// All that ended with a step.
struct StepRow {
  std::vector<Milestone> workers;
  NetworkMilestone network;  ///< when the last of them had ended it
  int ended = 0;             ///< workers that have
  std::int64_t done = 0;     ///< steps that all of them together had done then
};

}  // namespace gearshift::sim
