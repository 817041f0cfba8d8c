#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/ps/shard.h"
#include "gearshift/strategy/config.h"
#include "strategy/loss_history.h"

namespace gearshift::strategy {

/// Which phase is in force, and when the next one begins. Holds the metrics that policies see.
/// Thread-safety: all methods (shard 0 calls `on_commit` from its own task).
class Decider {
 public:
  Decider(base::Scheduler& scheduler, Strategy strategy);

  Phase phase() const;
  /// Goes over to the other phase, which begins after `step`.
  void advance(std::int64_t step);

  /// The step after which every rank leaves the phase in force, when that is known beforehand.
  std::optional<std::int64_t> known_step() const;
  /// Whether that step has passed in the phase in force: it may have been jumped over, at a join.
  bool is_overdue(std::int64_t step) const;
  /// Whether the policy in force has to be asked, when an epoch has ended at the latest.
  bool asks() const;
  /// Without a server: losses of finished steps, equal on all ranks.
  void add_reduced_loss(std::int64_t epoch, double loss_sum, double samples);
  /// Without a server: does this rank want to switch after `step`? Once wanted, stays wanted until
  /// the phase ends, so that a switch that had to wait is not lost.
  bool vote(std::int64_t step, std::int64_t epoch);
  /// Server, on the rank that decides: news of one commit. Returns the step after which all leave.
  std::optional<std::int64_t> on_commit(const ps::CommitInfo& info);

  /// Name of the policy in force and the inputs of its last verdict, for the decision log.
  std::string policy_name() const;
  std::string inputs() const;
  double latest_loss() const;

  /// What this rank has seen, and whether it wants to switch: for ranks that did not see it.
  std::vector<std::byte> pack_history() const;
  base::Status unpack_history(const std::vector<std::byte>& bytes);

 private:
  Policy* policy() const;
  Metrics metrics(std::int64_t step, std::int64_t epoch) const;
  /// Without the lock while the policy thinks, since it may ask for the replica's stats.
  bool ask(Policy& policy, const Metrics& seen, std::unique_lock<base::Monitor>& lock);

  const Strategy strategy_;
  std::unique_ptr<base::Monitor> monitor_;
  bool in_second_ = false;
  bool wanted_ = false;
  std::int64_t phase_begin_ = 0;    ///< step after which the phase in force began
  std::size_t earlier_epochs_ = 0;  ///< finished when it began
  std::string inputs_;
  LossHistory history_;
  // Under a server:
  std::int64_t seen_step_ = 0;
  double staleness_sum_ = 0;
  std::int64_t commits_ = 0;
};

}  // namespace gearshift::strategy
