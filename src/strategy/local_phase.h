#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gearshift/base/pages.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/ps/optimizer.h"
#include "gearshift/strategy/config.h"
#include "gearshift/strategy/plan.h"
#include "strategy/memory.h"

namespace gearshift::strategy {

/// What a worker holds under LocalSgd: the parameters of the last round, which are equal on all
/// ranks, and what this rank has done since.
///
/// A round: `take_change` of every bucket leaves in the memory of the gradients what the parameters
/// have lost since, and the parameters are those of the last round again; when the gradients are
/// the mean over all ranks, `apply` lets the outer optimizer make its step with them. So replicas
/// are equal bit by bit afterwards, whatever rounding the changes have undergone.
///
/// Not thread-safe: used by the task that makes the steps.
class LocalPhase {
 public:
  struct Options {
    LocalSgd config{};
    bool alone = false;          ///< in a world of one
    bool phantom = false;        ///< of a phantom replica
    std::int64_t step = 0;       ///< steps made before
    std::int64_t last_step = 0;  ///< ends with a round, however many steps were made since the last
  };
  /// Parameters are equal on all ranks. kIo when there is no memory for a copy of them.
  static base::Result<std::unique_ptr<LocalPhase>> begin(base::Scheduler& scheduler,
                                                         const BucketPlan& plan,
                                                         const BucketMemory& memory,
                                                         Options options);

  /// This rank has made a step, on so many samples; or has left it out, and moved no parameter.
  void note_step(double samples, bool left_out);
  /// Whether there has to be a round after `step`.
  bool is_due(std::int64_t step) const;
  /// Samples of the steps since the last round: the weight of this rank's change.
  double samples() const { return samples_; }
  std::int64_t steps() const { return steps_; }
  std::int64_t last_round() const { return last_round_; }  ///< behind which step it was
  /// Whether rounds are plain means, which an outer optimizer makes nothing else of.
  bool is_plain() const;
  /// Whether rounds change nothing: plain ones in a world of one. Nothing is kept then.
  bool is_idle() const { return options_.alone && is_plain(); }

  /// If somebody has written to the parameters, these are where the next change begins. On all
  /// ranks alike.
  void take_parameters();
  /// Of what `take_parameters` took since the last round, and `set_state`: to be equal on all
  /// ranks. 0: nothing.
  std::uint64_t taken() const { return taken_; }

  /// Of the outer optimizer, per parameter ("momentum_buffer"), as of the last round; entries are
  /// empty as long as it has none, and of a phantom replica.
  base::Result<std::vector<ps::StateEntry>> state() const;
  /// Makes that its state; empty entries are zeros. On all ranks alike, before `taken` is asked.
  base::Status set_state(const std::vector<ps::StateEntry>& state);
  std::uint64_t hash_of_state() const;

  void take_change(std::uint32_t bucket);
  base::Status apply();
  /// Nobody has learnt anything since the last round. Where there were steps, the parameters are
  /// those of that round again; else what was written to them stays.
  void undo_steps();
  /// A round is over, and `step` is everybody's.
  void restart(std::int64_t step);

 private:
  LocalPhase(base::Scheduler& scheduler, const BucketPlan& plan, const BucketMemory& memory,
             Options options);
  base::Status prepare();
  base::Status make_outer_step();
  /// Of the outer optimizer's state for one bucket; empty: it has none.
  base::Result<base::Buffer> momentum(std::uint32_t bucket) const;

  base::Scheduler& scheduler_;
  const BucketPlan& plan_;
  const BucketMemory& memory_;
  const Options options_;
  std::unique_ptr<base::Pages> pages_;
  std::vector<base::Bytes> anchor_;  ///< per bucket: the parameters of the last round
  std::unique_ptr<ps::Optimizer> outer_;
  std::int64_t last_round_;
  std::int64_t steps_ = 0;  ///< of this rank since the last round
  double samples_ = 0;
  bool moved_ = false;  ///< by a step since the last round
  std::uint64_t taken_ = 0;
};

}  // namespace gearshift::strategy
