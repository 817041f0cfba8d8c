#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/group/group.h"
#include "gearshift/membership/monitor.h"
#include "gearshift/ps/client.h"
#include "gearshift/ps/optimizer.h"
#include "gearshift/strategy/config.h"
#include "gearshift/strategy/plan.h"

namespace gearshift::strategy {

/// Where the worker's own optimizer keeps its state; asked at a switch.
class OptimizerBridge {
 public:
  virtual ~OptimizerBridge() = default;
  /// State per parameter, in the plan's order; empty entries for parameters never updated. Of a
  /// phantom replica, the tensors are phantoms, too.
  virtual base::Result<std::vector<ps::StateEntry>> export_state() = 0;
  virtual base::Status import_state(std::vector<ps::StateEntry> state) = 0;

  /// Whether a rank may have scaled its losses by numbers of its own (those of a GradScaler), which
  /// must be one for all where gradients are summed. Equal on all ranks.
  virtual bool has_scales() const { return false; }
  /// Those scales, as bytes that only bridges read. At a switch to All-Reduce they go from a rank
  /// that makes the step to all, also to itself and to those that are out of batches. `skipped`:
  /// what the report of that step will say.
  virtual base::Result<std::vector<std::byte>> export_scales(bool /*skipped*/) {
    return std::vector<std::byte>();
  }
  virtual base::Status import_scales(base::ConstBytes /*scales*/) { return {}; }
};

/// Models of a job at a time.
inline constexpr std::uint16_t kMaxModels = 128;

struct ReplicaOptions {
  std::vector<ParameterSpec> parameters{};
  Strategy strategy{};
  /// Rule and names of numbers for the servers; absent: no optimizer, All-Reduce only.
  std::optional<ps::OptimizerSpec> optimizer{};
  /// Must outlive the replica; may be null when no phase is a server.
  OptimizerBridge* bridge = nullptr;
  /// Bytes of non-trainable state (BatchNorm statistics) that the lowest active rank broadcasts.
  std::size_t buffer_bytes = 0;
  /// Compared across ranks besides parameters and strategy, e.g. library versions.
  std::string fingerprint{};
  /// Distinguishes the models that a job has at a time, below kMaxModels; equal on all ranks.
  std::uint16_t model = 0;
  /// Parameters, gradients and buffers are phantoms (base/bytes.h): nothing of the model's size is
  /// allocated, here or on servers, and messages are those of a real replica in number and bytes.
  /// For transports that carry phantoms. Equal on all ranks. A gradient counts as present where
  /// `backward_end` was told so. Needs a native optimizer under servers.
  bool phantom = false;
};

/// What a strategy needs from the process it runs in.
struct Environment {
  group::Group* workers = nullptr;  ///< ranks 0 … N-1; null in a dedicated server
  int workers_count = 1;            ///< N
  group::Group* world = nullptr;    ///< workers, then dedicated servers
  /// Null: nobody watches for lost peers or tells others of an error; errors are returned and
  /// logged where they occur. One of a shard breaks the links of its process.
  membership::Monitor* monitor = nullptr;
  /// Called when a replica has been stopped: its `ReplicaOptions::model` is free for another one.
  std::function<void(std::uint16_t model)> on_stopped{};
};

struct StepInput {
  double loss = 0;  ///< this rank's mean loss; NaN: not given; one that is NaN is infinity here
  std::int64_t epoch = 0;
  /// The optimizer's numbers of this step. Servers apply them; under BSP all ranks whose gradients
  /// count must have the same (kMismatch). Under All-Reduce, where they may be any that ranks must
  /// apply alike, or none, the next round compares them (kMismatch).
  ps::HyperValues hypers{};
  double gradient_factor = 1;  ///< under a server: multiplies this worker's gradient; finite
  /// This gradient is unusable: under a server; under LocalSgd the step was left out on this rank.
  bool skip = false;
  /// Under a server: for this step, instead of the strategy's; finite; 0: the strategy's.
  double clip_norm = 0;
  /// Under a server: which buckets' gradients were changed since backward; empty: find out.
  std::vector<bool> modified{};
};

/// One entry of the decision log.
struct SwitchRecord {
  std::int64_t step = 0;  ///< the last step under the old phase
  std::string from, to;
  std::string policy, inputs;
  double seconds = 0;
  std::uint64_t bytes_moved = 0;     ///< sent and received by this rank for the hand-over
  std::uint64_t parameter_hash = 0;  ///< equal on all ranks, before and after
};

struct StepReport {
  std::int64_t step = 0;  ///< steps done
  /// Of these, the first so many are in the parameters for sure, where a buffered server may hold
  /// gradients; and of each other rank that takes part the first so many, where ranks go their own
  /// ways. Both are `step` under All-Reduce and BSP.
  std::int64_t seen = 0, seen_of_others = 0;
  /// Under All-Reduce: all that took part in the latest round had as many samples as this rank.
  bool alike = true;
  bool skipped = false;
  bool averaged = false;  ///< under LocalSgd: parameters and buffers are those of all ranks now
  std::optional<SwitchRecord> switched{};
};

struct Stats {
  std::string strategy;  ///< in force
  std::int64_t step = 0;
  /// Latest reduced loss; NaN: none, or not finite. Under All-Reduce of the step before the latest
  /// round, under a server see ps::Reply.
  double loss = 0;
  std::uint64_t bytes_sent = 0, bytes_received = 0;  ///< by this process, all peers
  double mean_staleness = 0;                         ///< of this worker's pushes
  std::int64_t max_staleness = 0;
  std::int64_t pushes = 0;
  std::int64_t max_lead = 0;       ///< of the shard in this process, if any
  std::int64_t shard_applies = 0;  ///< of the shard in this process, if any
  double exposed_seconds = 0;      ///< time that backward_end and step waited for communication
  /// Time during which gradients or parameters were under way, waiting for peers included. What
  /// exceeds exposed_seconds was hidden behind computation.
  double communication_seconds = 0;
  std::vector<SwitchRecord> switches;
};

/// One model on one worker: the memory of parameters and gradients, and the protocol of a step
/// under whatever strategy is in force.
///
/// A step: `ready(p)` as gradients appear (or not at all), `backward_end`, then `step`. Under
/// All-Reduce, after `backward_end` every gradient is the mean over all ranks' samples and the
/// caller applies its optimizer *before* calling `step`; under a server `step` pushes the
/// gradients and returns with fresh parameters. `uses_server()` tells which. Under LocalSgd
/// (`is_local()`) gradients are this rank's own after `backward_end`, the caller applies its
/// optimizer, and every so many steps `step` makes the parameters the mean of all ranks', which
/// leaves zeros in the memory of the gradients.
///
/// Thread-safety: `ready` from any one task at a time (autograd's), the rest from one task.
/// Errors are explained by the monitor; after an error other than kInvalidArgument the replica
/// is unusable.
class Replica {
 public:
  /// Collective over the workers. Compares all that must agree and reports the first difference
  /// (kMismatch). Does not broadcast parameters: see `broadcast_parameters`.
  static base::Result<std::unique_ptr<Replica>> create(Environment environment,
                                                       ReplicaOptions options);
  virtual ~Replica() = default;

  virtual const BucketPlan& plan() const = 0;
  /// Memory of one parameter, of its gradient, and of the non-trainable state.
  virtual base::Bytes parameter(std::uint32_t index) = 0;
  virtual base::Bytes gradient(std::uint32_t index) = 0;
  virtual base::Bytes buffers() = 0;
  /// Keeps that memory mapped for as long as it is held, also when the replica and its session have
  /// gone: for tensors that are views of it.
  virtual std::shared_ptr<const void> memory() const = 0;

  /// Collective: parameters and buffers of rank 0 to all; starts the servers when the strategy
  /// begins with them. Call once, after the memory was filled and before the first step: without
  /// it everything else is kInvalidArgument, after `stop` kClosed.
  virtual base::Status start() = 0;

  virtual bool uses_server() const = 0;
  /// Whether LocalSgd is in force.
  virtual bool is_local() const = 0;
  /// Whether the next step may end in a round of it, for which parameters and buffers must be in
  /// the replica's memory. In between nobody looks at that.
  virtual bool averages_next() const = 0;
  /// Whether LocalSgd is in force whose outer optimizer makes something else of rounds than means.
  virtual bool has_outer_optimizer() const = 0;

  /// A backward begins on `samples` samples (weight of this rank's gradient); optional: the first
  /// `ready` implies it with the last value given.
  virtual base::Status backward_begin(double samples) = 0;
  /// The gradient of a parameter is final and in place.
  virtual base::Status ready(std::uint32_t index) = 0;
  /// No more `ready` will come. `present[p]`: p has a gradient on this rank (in place); the memory
  /// of the others is zeroed. Under All-Reduce waits for the means; returns who has a gradient on
  /// any rank (otherwise: `present` itself).
  ///
  /// `settled`: nobody changes the gradients between this call and `step`, which then does not look
  /// for changes (under a server that costs a pass over all gradients).
  virtual base::Result<std::vector<bool>> backward_end(const std::vector<bool>& present,
                                                       bool settled = false) = 0;

  /// Ends a step; performs the switch that is due. Since the step before, a `backward_end` must
  /// have been there (kInvalidArgument; where `skip` is looked at, such a step may do without), of
  /// no samples where there are none, and no backward may be under way.
  virtual base::Result<StepReport> step(const StepInput& input) = 0;

  struct JoinReport {
    base::Rank root;  ///< the rank that made most steps: its state is everybody's now
    /// Another rank made fewer, or had other parameters. The caller must take over from root
    /// whatever counts steps by itself, such as learning-rate schedules, and, under All-Reduce, the
    /// optimizer's state.
    bool steps_differ = false;
  };
  /// Collective: this rank has no more batches in this epoch. Takes part in the others' steps
  /// without a gradient until all have joined; then parameters, buffers and step are equal on all
  /// ranks again. Waits as long as anyone makes steps. Not between the begin and the end of a
  /// backward.
  ///
  /// Under All-Reduce the memory of the gradients holds means of the others' then, and under
  /// LocalSgd changes of parameters: `before` is called, at most once, before the first comes in.
  virtual base::Result<JoinReport> join(const std::function<void()>& before) = 0;
  base::Result<JoinReport> join() { return join({}); }
  /// Under a server: optimizer state from, or to, the shards; any rank, alone.
  virtual base::Result<std::vector<ps::StateEntry>> fetch_state() = 0;
  virtual base::Status store_state(const std::vector<ps::StateEntry>& state) = 0;
  /// Under LocalSgd: what its outer optimizer knew at the end of the last round
  /// ("momentum_buffer"), equal on all ranks; entries are empty where there is nothing, and under
  /// another strategy. To be stored on all ranks alike, else the next round finds out (kMismatch);
  /// empty entries: zeros.
  virtual base::Result<std::vector<ps::StateEntry>> fetch_outer_state() = 0;
  virtual base::Status store_outer_state(const std::vector<ps::StateEntry>& state) = 0;
  /// Under a server: makes this rank's parameter memory the servers' (after loading a checkpoint).
  /// Under LocalSgd, before the first step after a round, and before a join or the end where there
  /// is none: what was written to it is no change of a step, so that it is not rounded on its way,
  /// nor seen by an outer optimizer; on all ranks alike, else the round finds out (kMismatch).
  /// Otherwise it does nothing; under All-Reduce the first round compares the ranks' parameters
  /// (kMismatch).
  virtual base::Status store_parameters() = 0;
  /// Under a server: whether the parameter memory was written to since the last step, as far as is
  /// known: it is looked at in the first 32 steps and in every 16th, and in all once it was.
  virtual bool parameters_written() = 0;

  virtual Stats stats() const = 0;
  /// Under a server, collective: no more steps of this rank will come, and nobody waits for one.
  /// Waits as long as anyone makes steps. All updates are applied then, and parameters are equal on
  /// all ranks, as is what `fetch_state` returns; the non-trainable state is that of a rank that
  /// made most steps. What may follow is `fetch_state` and `stop`.
  /// Under LocalSgd the same, after a last round, in which this rank's steps since the one before
  /// count. Under All-Reduce it does nothing, and waits for nobody: where ranks have different
  /// numbers of batches, `join` makes them equal.
  virtual base::Status finish() = 0;
  /// Collective: ends servers of this model. The replica makes no steps any more. Waits for other
  /// ranks as `join` does, whose steps do without this one; parameters stay as the latest step left
  /// them.
  virtual base::Status stop() = 0;
};

/// Serves as a dedicated server until all workers have left. Errors as the failure contract says.
base::Status run_server(Environment environment);
/// Every worker, at the end of its job: dedicated servers end when all have said so.
base::Status release_servers(group::Group& world, int workers);

}  // namespace gearshift::strategy
