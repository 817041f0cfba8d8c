#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "gearshift/group/group.h"
#include "gearshift/strategy/config.h"
#include "gearshift/strategy/plan.h"
#include "strategy/comm_task.h"
#include "strategy/memory.h"

namespace gearshift::strategy {

/// What this rank brings to one round: of All-Reduce, one backward; of LocalSgd, one averaging.
struct RoundInput {
  double samples = 1;       ///< weight of this rank's gradient; 0 when it has joined
  bool joined = false;      ///< out of batches
  bool vote = false;        ///< its policy says: switch after this step
  double loss_sum = 0;      ///< loss × samples of this rank's steps not yet reported
  double loss_samples = 0;  ///< the samples belonging to loss_sum
  /// Of what all that have not joined must agree on, below kDigests; a sum over the ranks is exact.
  std::uint32_t digest = 0;
  static constexpr std::uint32_t kDigests = 1U << 30U;
  std::int64_t step = 0;  ///< optimizer steps that this rank has made
  int rounds = 0;         ///< and rounds since the last one
  /// How long to wait for others at most; absent: the timeout.
  std::optional<base::Duration> patience{};
};

/// What all ranks know after it.
struct RoundResult {
  double samples = 0;
  int joined = 0;
  int votes = 0;
  double loss_sum = 0;
  double loss_samples = 0;
  base::Rank root;       ///< lowest rank that has not joined; 0 if all have
  bool agreed = false;   ///< nobody's digest is known to differ from this rank's
  bool in_step = false;  ///< nor how many steps and rounds it had made
  /// Steps that those had made who have not joined; their mean, if they are not equal.
  std::int64_t step = 0;
};

/// The rounds of All-Reduce and of LocalSgd: control values, buckets in the plan's order while
/// backward runs, and the non-trainable state.
///
/// Each gradient is scaled by samples / total samples as it is summed, so that the result is
/// the mean over all samples however they are spread. Cost per round: one all-reduce of
/// 5 + ⌈N/47⌉ doubles, one all-reduce per bucket, one broadcast when there are buffers.
///
/// The total is what the control values say. In shared memory they go first. Over wires they have a
/// channel and a task of their own, and buckets do not wait for them: the total is taken to be that
/// of the round before, which all ranks know, and where it turns out to be another one, gradients
/// are multiplied by the ratio of the two at the end of the round. Buckets of half-precision floats
/// wait, since they could leave the range of their type; and all do in the first round.
///
/// Compressed, a bucket of float32 is weighted and rounded into memory of its lane, summed there,
/// and put back: half the bytes for two passes over memory, one of them behind the wire.
///
/// With several *lanes*, buckets take turns at them, and as many are in flight at once: where
/// messages travel over wires, one bucket's bytes fill the pauses of the other. Each lane is a
/// channel and a task of its own; the order within a lane is equal on all ranks.
class Reducer {
 public:
  /// `lanes`: one group per lane, over the same ranks. Lane 0 runs on `comm`. `control`: a group
  /// for the control values alone, over these ranks; without one they go first in lane 0.
  Reducer(std::vector<group::Group> lanes, std::optional<group::Group> control,
          const BucketPlan& plan, BucketMemory& memory, CommTask& comm, const AllReduce& how);

  /// From the next round on; none is under way. Equal on all ranks.
  void use(const AllReduce& how);

  void begin(const RoundInput& input);
  /// The bucket's gradients are in place; `counts[i]` says whether entry i has one on this rank.
  /// Buckets may be closed in any order; they are reduced in the plan's.
  void close_bucket(std::uint32_t bucket, std::vector<bool> present);
  /// Waits for the round. All buckets must have been closed.
  base::Result<RoundResult> end();
  /// Who has a gradient on any rank, after `end`.
  std::vector<bool> present() const { return {present_.begin(), present_.end()}; }
  /// A round of a rank without batches. When all have joined, no bucket was reduced; otherwise
  /// `before` is called, if given, before the memory of the gradients is written to. Waits long:
  /// the others compute a whole step in between.
  base::Result<RoundResult> shadow_round(double loss_sum, double loss_samples,
                                         const std::function<void()>& before);

  /// A round in two parts, the same on all ranks. First the control values: waits for others as the
  /// input says.
  base::Result<RoundResult> meet(const RoundInput& input);
  /// Then, if what all know now asks for it, buckets, each when `fill` has made its contents, and
  /// the non-trainable state of `RoundResult::root`. Where all have joined there is no root, and
  /// that state stays each rank's own.
  base::Result<RoundResult> exchange(const std::function<void(std::uint32_t)>& fill);

 private:
  struct Lane {
    group::Group group;
    base::Buffer half{};              ///< for a compressed bucket; goes after the task that uses it
    std::unique_ptr<CommTask> own{};  ///< null in lane 0
    CommTask* comm = nullptr;
  };
  enum class Control : unsigned char { kPending, kKnown, kFailed };

  std::unique_ptr<Lane> make_lane(group::Group group, const std::string& name, CommTask& comm);
  Lane& control_lane() { return control_lane_ ? *control_lane_ : *lanes_[0]; }
  /// Whether the bucket is reduced with the total that is expected.
  bool is_early(std::uint32_t bucket) const;
  /// Multiplies what was reduced with another total than this round's.
  void correct_early();

  Lane& lane_of(std::uint32_t bucket) { return *lanes_[bucket % lanes_.size()]; }
  base::Status exchange_control(const RoundInput& input);
  base::Status control(const RoundInput& input);
  void set_control(Control state);
  base::Status await_control();
  base::Status drain();
  base::Result<RoundResult> end_buckets();
  base::Status reduce_bucket(Lane& lane, std::uint32_t bucket);
  /// The sum over the ranks of factor · gradients and counts.
  base::Status sum(Lane& lane, std::uint32_t bucket, double factor);
  bool is_compressed(std::uint32_t bucket) const;
  /// Memory for the lanes' largest compressed buckets.
  void make_halves();
  base::Status broadcast_buffers();
  /// Behind the gradients, which the all-reduce will multiply: what becomes 1 by that.
  void write_counts(std::uint32_t bucket, double value);
  void read_counts(std::uint32_t bucket);

  const BucketPlan& plan_;
  BucketMemory& memory_;
  AllReduce how_;
  std::vector<std::vector<bool>> closed_;  ///< presence of closed buckets; empty: open
  std::vector<bool> is_closed_;
  std::uint32_t next_bucket_ = 0;  ///< first one not handed to the comm task
  double samples_ = 1;
  double expected_ = 0;  ///< the total that buckets are reduced with; 0: that of the round
  RoundResult result_;
  std::vector<char> present_;  ///< per parameter; written by all lanes
  std::unique_ptr<base::Monitor> monitor_;
  Control control_ = Control::kPending;
  std::atomic<bool> awaited_{false};  ///< the program waits for the round, instead of computing
  std::optional<base::Duration> patience_;    ///< RoundInput::patience of this round
  std::vector<std::unique_ptr<Lane>> lanes_;  ///< end first: their jobs use the above
  std::unique_ptr<Lane> control_lane_;        ///< null: lane 0
};

}  // namespace gearshift::strategy
