#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/group/group.h"
#include "gearshift/ps/consistency.h"
#include "gearshift/ps/layout.h"
#include "gearshift/ps/optimizer.h"

namespace gearshift::ps {

/// What a server learns with one commit; that of shard 0 is passed on to the switch policies.
struct CommitInfo {
  int worker = 0;
  std::int64_t step = 0;          ///< of the worker, counts from 1
  double loss = 0;                ///< NaN when the worker gave none
  double samples = 0;             ///< weight of the worker's gradient
  double mean_loss = 0;           ///< of all workers, see Reply::loss
  std::int64_t epoch = 0;         ///< of the worker
  std::int64_t staleness = 0;     ///< updates of others that the gradient's parameters lack
  std::int64_t highest_step = 0;  ///< of any worker so far
  /// The epoch of the worker that is furthest behind, of those that have batches left.
  std::int64_t earliest_epoch = 0;
};

struct ShardOptions {
  std::uint16_t model = 0;  ///< service channel kServerService + model
  int index = 0;            ///< this shard
  int workers = 1;          ///< ranks 0 … workers-1 of the group are workers
  /// Answers may go out worker by worker, so many at a time, in the order in which commits came: as
  /// many as fill the links of all shards if each link is as fast as a shard's. Where that is not
  /// so, the shard notices. 0: all at once. Without effect under BSP, where all wait for the last.
  int at_once = 0;
  std::vector<Slice> slices;
  Consistency consistency;
  OptimizerSpec optimizer;
  /// Multiplies the learning rate of each update (1/N for asynchronous servers by default).
  double lr_factor = 1;
  /// BSP: the averaged gradient is clipped to this global norm, across shards; 0: not. Refused
  /// otherwise: there each worker clips its own gradient (Commit::gradient_factor).
  double clip_norm = 0;
  /// Not BSP: kDiverged when the smoothed loss exceeds this multiple of the smoothed early loss
  /// (early loss > 0, at least 20 commits each), where no loss counts more than twice that; 0: not.
  /// Non-finite gradients and losses always. Shard 0 also warns, once, when a smoothed loss that
  /// had fallen by a third, and by far more than batches differ, is back at the early loss for 60
  /// commits.
  double divergence_factor = 10;
  /// Called for each commit, on the shard's task. Returns the step after which every worker shall
  /// leave the server (announced in all later replies), or nothing; only shard 0 may decide that.
  std::function<std::optional<std::int64_t>(const CommitInfo&)> on_commit;
  /// Called at most once, on the shard's task, when the shard cannot go on (kDiverged, kProtocol,
  /// kMismatch …). It answers nobody from then on: end the job, e.g. by Group::abort. Must not call
  /// Shard::stop.
  std::function<void(const base::Error&)> on_failure;
};

struct ShardStats {
  std::int64_t commits = 0;  ///< gradients received
  std::int64_t applies = 0;  ///< updates made = the shard's version
  double mean_staleness = 0;
  std::int64_t max_staleness = 0;
  std::int64_t max_lead = 0;  ///< most steps by which an answered worker led the slowest active one
};

/// One shard of a parameter server: owns slices of the parameters and the optimizer's state for
/// them, and serves pushes and pulls of all workers from a task of its own. Lives in a worker
/// process or in a process of its own; it cannot tell.
///
/// Deterministic under BSP: gradients are summed in rank order. Thread-safety: all methods.
///
/// Wire cost per worker and step, for slices of S bytes in total: S up and S down plus one commit
/// and one reply head per shard (protocol.h); messages: one per slice up, one commit, one per slice
/// down, one reply. Source: Li et al., "Scaling Distributed Machine Learning with the Parameter
/// Server", OSDI 2014; SSP: Ho et al., NeurIPS 2013; Buffered: Nguyen et al., FedBuff, AISTATS
/// 2022.
class Shard {
 public:
  /// Starts serving `group` (workers first, then dedicated servers, this process's rank included).
  /// `shards` is a group over the processes that host shards, ordered by shard index, used for the
  /// norm of clip_norm. `parameters[i]` are the initial bytes of slice i (copied). All workers
  /// start active, at step `first_step` (steps done so far).
  static base::Result<std::unique_ptr<Shard>> start(group::Group group, group::Group shards,
                                                    ShardOptions options,
                                                    const std::vector<base::ConstBytes>& parameters,
                                                    std::unique_ptr<Optimizer> optimizer,
                                                    std::int64_t first_step);
  virtual ~Shard() = default;
  /// Ends the task. Pending requests are not answered. Idempotent.
  virtual void stop() = 0;
  virtual ShardStats stats() const = 0;
};

}  // namespace gearshift::ps
