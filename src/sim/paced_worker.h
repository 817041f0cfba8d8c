#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/sim/simulate.h"
#include "gearshift/strategy/local_optimizer.h"
#include "gearshift/strategy/replica.h"
#include "sim/milestone.h"
#include "sim/pace.h"

namespace gearshift::sim {

/// A worker whose computation is sleeping for as long as it would take: the same on a virtual
/// clock and on a real one, where it shows what the network alone does to a job.
class PacedWorker {
 public:
  struct Options {
    const Workload* workload = nullptr;
    const Pace* pace = nullptr;
    ps::HyperValues hypers;
    int first_step = 1;
    int steps = 1;                             ///< the last one's number
    std::function<void(const Span&)> on_span;  ///< empty: not asked for
    std::function<void(int step)> on_step;
    /// Asked before each step, in place of `steps`: whether to do it. Empty: not asked.
    std::function<bool(int step)> begins;
    /// Told what was done by the end of each step, but for bytes and messages.
    std::function<void(Milestone)> on_milestone;
    Learner* learner = nullptr;  ///< null: gradients have no values
    int evaluate_every = 0;      ///< 0: never
    int steps_per_epoch = 0;
  };
  /// The replica's strategy has started. `start` is the time from which the results count.
  PacedWorker(base::Scheduler& scheduler, strategy::Replica& replica,
              strategy::LocalOptimizer* optimizer, Options options);

  /// All steps; what was reached when an error ended them stands in `result`.
  /// Statistics are added to what `result` holds already.
  base::Status run(base::TimePoint start);
  WorkerResult& result() { return result_; }
  const std::vector<strategy::SwitchRecord>& switches() const { return switches_; }
  const std::vector<CurvePoint>& curve() const { return curve_; }

 private:
  base::Status step(int step);
  base::Status backward(base::TimePoint begin, double factor);
  base::Status learn(int step);
  bool is_present(std::uint32_t parameter) const;
  base::Status evaluate(int step);
  void note_statistics(double mean_before);
  void span(const char* track, const char* name, base::TimePoint begin);
  double seconds(base::TimePoint t) const { return base::to_seconds(t - start_); }

  base::Scheduler& scheduler_;
  strategy::Replica& replica_;
  strategy::LocalOptimizer* optimizer_;
  const Options options_;
  std::vector<std::uint32_t> order_;  ///< parameters as their gradients become ready
  base::TimePoint start_;
  WorkerResult result_;
  double exposed_before_ = 0, communication_before_ = 0;  ///< what `result_` held before
  std::int64_t pushes_ = 0;
  std::vector<strategy::SwitchRecord> switches_;
  LearnerStep learnt_;                    ///< in the step under way
  double loss_sum_ = 0, loss_count_ = 0;  ///< since the last point of the curve
  std::vector<CurvePoint> curve_;
};

}  // namespace gearshift::sim
