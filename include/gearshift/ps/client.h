#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/group/group.h"
#include "gearshift/ps/layout.h"
#include "gearshift/ps/optimizer.h"
#include "gearshift/transport/shared_region.h"

namespace gearshift::ps {

struct ClientOptions {
  std::uint16_t model = 0;
  std::shared_ptr<const Layout> layout;
  /// Rank of the group on which shard k runs; may be this process.
  std::vector<base::Rank> servers;
  /// Parameters, gradients and state are phantoms: fetched state is, too.
  bool phantom = false;
  /// The region that gradients are staged from, if they are in one: servers of this host read them
  /// there. Must outlive the client.
  const transport::SharedRegion* gradients = nullptr;
  /// Gradients of float32 travel as bfloat16, rounded to nearest; to servers of this host, too.
  bool halve_gradients = false;
};

/// A worker's step as the servers see it.
struct Commit {
  std::int64_t step = 0;  ///< counts from 1
  std::int64_t epoch = 0;
  double samples = 1;          ///< weight of this gradient in an average
  double loss = 0;             ///< NaN: none
  double gradient_factor = 1;  ///< the server multiplies the gradient by it (clipping, unscaling)
  /// This worker's gradient is unusable (overflow under a gradient scaler): a synchronous server
  /// then applies nothing in this step for anybody, an asynchronous one ignores this push.
  bool skip = false;
  /// BSP: global norm to which the average of this step is clipped, instead of
  /// ShardOptions::clip_norm; 0: that. Equal on all workers.
  double clip_norm = 0;
  /// For each parameter of the model: has it a gradient? (Empty: all have.) A parameter without one
  /// counts as zero from this worker; one without on all workers of an update is left alone.
  std::vector<bool> present;
  HyperValues hypers;  ///< BSP: equal on all workers whose gradients count
};

struct Reply {
  std::int64_t version = 0;    ///< updates that the parameters have seen; maximum over the shards
  std::int64_t staleness = 0;  ///< of this push; maximum over the shards
  bool skipped = false;        ///< nothing was applied (see Commit::skip)
  /// Of a commit: each active worker has made at least so many steps less than this one that a
  /// server has taken in before it sent the parameters. Maximum over the shards.
  std::int64_t lead = 0;
  /// Mean over the samples of all active workers: of the losses of this step under BSP, otherwise
  /// of the latest that each has given. As shard 0 has it; NaN: none, or not finite.
  double loss = std::numeric_limits<double>::quiet_NaN();
  /// Step after which all workers leave the server (0: none announced), see ShardOptions.
  std::int64_t leave_after = 0;
};

/// All optimizer state of a model as the shards have it, put together per parameter.
struct StateEntry {
  std::map<std::string, base::Buffer> tensors;  ///< of the parameter's size and dtype
  std::map<std::string, double> scalars;
};

/// A worker's side of the parameter server.
///
/// One per worker for the life of the shards. Nothing waits for longer than the group's timeout
/// without progress; errors name the shard, its rank and the operation ("push step 12: …").
///
/// What a step (`stage` of every bucket, `commit`) sends between a worker and a shard that owns S
/// slices of b bytes in all, in another process; P parameters, h numbers in `hypers`:
///   to the shard    S + 1 messages; b bytes of gradients, 25 for each message's head, and
///                   81 + 8·(S + h) + ⌈P/8⌉ of the commit (without ⌈P/8⌉ if `present` is empty)
///   to the worker   S + 1 messages; b bytes of parameters, and 40
/// With `halve_gradients`, gradients of float32 have half their bytes.
/// `pull` sends one message of 25 bytes, and gets the same answer. A shard without slices is asked,
/// too.
///
/// Not thread-safe: one task at a time, except that `stage` may be called from another task than
/// the rest when calls are ordered by the caller.
class Client {
 public:
  Client(group::Group group, ClientOptions options);
  ~Client();

  /// Sends one bucket's gradient to the shards that own it, for the step that the next commit
  /// ends. Returns without waiting; `gradient` (the whole bucket) must stay as it is until
  /// `commit` returns. Staging a bucket again replaces what was staged before. In the order of the
  /// calls: servers wait for the commit anyway, so nothing is won by overtaking.
  base::Status stage(std::uint32_t bucket, base::ConstBytes gradient);
  /// Ends the step: every bucket must have been staged (unless skip, or samples is 0). Waits until
  /// all shards have answered according to their consistency; fresh parameters are received
  /// straight into `parameters[bucket]`, front layers first. Steps rise. After an error other than
  /// kInvalidArgument the client is of no more use.
  base::Result<Reply> commit(const Commit& commit, const std::vector<base::Bytes>& parameters);
  /// Fresh parameters without a push.
  base::Result<Reply> pull(const std::vector<base::Bytes>& parameters);

  /// This worker has no more batches: nobody waits for it until it enters again.
  base::Status leave(std::int64_t step);
  /// Takes part again from `step` (steps done so far). Returns when all shards know.
  base::Status enter(std::int64_t step);
  /// Applies what a buffered server still holds, and returns when every update so far is applied.
  base::Status flush();

  /// Optimizer state from, or to, all shards. `parameter_sizes[p]` is in elements.
  base::Result<std::vector<StateEntry>> fetch_state(const std::vector<std::size_t>& parameter_sizes,
                                                    const std::vector<base::DType>& dtypes);
  base::Status store_state(const std::vector<StateEntry>& state);
  /// Overwrites the servers' parameters, e.g. after loading a checkpoint.
  base::Status store_parameters(const std::vector<base::ConstBytes>& buckets);

  struct Impl;  ///< private to the module

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace gearshift::ps
