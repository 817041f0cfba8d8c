#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "gearshift/sim/simulate.h"
#include "sim/milestone.h"
#include "sim/regularity.h"

namespace gearshift::sim {

/// Finds out when a training has become steady, and saves it the steps that are left.
///
/// A training without randomness is periodic when all workers together do the same in every
/// `period` steps, later by the same time: begin, end of backward and end of each step, bytes and
/// messages of each worker and each link, staleness, waiting, levels of token buckets and queues.
/// When each of `period` + kMore steps in a row was as the one a period before, the number of steps
/// to simulate is reduced, for all workers alike, by as many periods as nobody has begun.
///
/// With a tolerance, all that nobody has begun is left out, too, when the mean step time of the
/// whole training is known to within that share of it (`estimate_mean`, 95 %), nothing repeats at
/// the time, and nothing that is known speaks against it: no token bucket or queue empties or fills
/// in a way that would make more of a difference in the end, computation takes as long in the
/// window as in what is left out, and workers who wait for each other are equally fast.
///
/// Workers go on as if they had been told so from the start: how training ends, when some are done
/// and others are not, is simulated. `extend` then puts in what was left out.
///
/// Not thread-safe, like the scheduler of a simulation.
class SteadyState {
 public:
  static constexpr int kPeriods = 16;  ///< tried: up to so many times that of computation
  static constexpr int kMore = 2;
  static constexpr int kLeastKnown = 24;  ///< steps, before an estimate
  /// Workers who do not wait for each other in every step may keep one order for a hundred steps
  /// and fall into another: then, and the window.
  static constexpr int kLeastKnownLoose = 250, kLeastLoose = 200;
  static constexpr double kGrowth = 0.2;  ///< of what is known, until the next attempt

  /// `network` says what it has done until now. `tolerance` 0: only what repeats is left out.
  SteadyState(int workers, int steps, Regularity regularity, Load load, double tolerance,
              std::function<NetworkMilestone()> network);

  /// Whether a worker that has ended all steps before this one shall do it. Counts from 1.
  bool begin(int step);
  /// A worker has ended its next step.
  void end(int rank, const Milestone& milestone);
  /// The number that a step has in the result.
  int number(int step) const;
  /// Puts the steps that were skipped into the result of the others.
  void extend(SimulationResult& result) const;

 private:
  struct Candidate {
    int period = 1;
    int run = 0;         ///< steps in a row that were as those a period before
    double seconds = 0;  ///< by how much later, at the first of them
  };
  struct Skip {
    int after = 0;  ///< the step after which
    int period = 1;
    int count = 0;          ///< steps
    double seconds = 0;     ///< of a period, if it repeats
    double half_width = 0;  ///< else
    bool estimated = false, apart = false;
  };

  const StepRow& row(int step) const { return rows_[static_cast<std::size_t>(step - first_row_)]; }
  void look(int step);
  bool repeats(int step, const Candidate& candidate) const;
  bool repeats(int step, const Candidate& candidate, std::size_t rank) const;
  bool counts_repeat(int step, int period, std::size_t rank) const;
  bool network_repeats(int step, const Candidate& candidate) const;
  void decide(int step, const Candidate& candidate);
  void estimate(int step);
  double network_drift(int step, int window) const;
  bool is_typical(int step, int window) const;
  bool keeps_together(int step, int window) const;
  void extend_periods(SimulationResult& result) const;
  void extend_periods(WorkerResult& worker) const;

  const int workers_;
  int steps_;
  const Regularity regularity_;
  const Load load_;
  const double tolerance_;
  const std::function<NetworkMilestone()> network_;
  std::vector<int> ended_;  ///< steps, by rank
  std::vector<Candidate> candidates_;
  int longest_ = 0;            ///< of their periods
  std::vector<double> means_;  ///< times of steps, from the second regular one on
  int next_estimate_;          ///< the step
  std::deque<StepRow> rows_;
  int first_row_ = 1;  ///< its step
  int begun_ = 0;      ///< the furthest step that a worker has begun
  std::optional<Skip> skip_;
};

}  // namespace gearshift::sim
