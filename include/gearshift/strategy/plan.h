#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "gearshift/base/dtype.h"
#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/group/topology.h"
#include "gearshift/ps/layout.h"

namespace gearshift::strategy {

/// A trainable parameter, in the framework's order.
struct ParameterSpec {
  std::string name;
  std::vector<std::int64_t> shape;
  base::DType dtype = base::DType::kF32;
  std::uint32_t param_group = 0;

  std::size_t elements() const;
  bool operator==(const ParameterSpec&) const = default;
};

/// Parameters fused into one operation.
struct Bucket {
  struct Entry {
    std::uint32_t parameter = 0;
    std::size_t offset = 0;  ///< bytes from the bucket's begin; a multiple of 64
    bool operator==(const Entry&) const = default;
  };
  base::DType dtype = base::DType::kF32;
  std::vector<Entry> entries;
  std::size_t bytes = 0;  ///< with padding; a multiple of 64
  /// Gradient buckets end with one element per entry: how many ranks have this gradient.
  std::size_t gradient_bytes = 0;
  bool operator==(const Bucket&) const = default;
};

/// Which parameter lives in which bucket. Buckets are numbered from the back of the model to its
/// front, the order in which backward fills them; each has one dtype and about `bucket_bytes`
/// (a larger parameter has a bucket of its own). Pure function of its inputs: equal on all ranks.
struct BucketPlan {
  std::vector<ParameterSpec> parameters;
  std::vector<Bucket> buckets;
  std::vector<std::uint32_t> bucket_of;  ///< parameter → bucket
  std::vector<std::size_t> offset_of;    ///< parameter → byte offset in its bucket

  /// Errors: kUnsupported (a dtype that cannot be trained), kInvalidArgument (a negative dimension,
  /// a parameter that no memory could hold, bucket_bytes of zero).
  static base::Result<BucketPlan> make(std::vector<ParameterSpec> parameters,
                                       std::size_t bucket_bytes);
  std::size_t total_bytes() const;
  bool operator==(const BucketPlan&) const = default;
};

/// Most bytes of a slice by default. A shard applies and answers slice by slice: while it works on
/// one, the next is on its way, and only the first and the last are not overlapped. Small enough
/// for a core's cache, large enough that a message costs nothing beside it.
inline constexpr std::size_t kSliceBytes = std::size_t{1} << 20;
/// On dedicated servers: they get a slice from all workers at a time, which is longer to wait for.
/// Twice that where gradients travel as halves.
inline constexpr std::size_t kDedicatedSliceBytes = std::size_t{512} << 10;

/// Cuts every bucket by bytes into a part for each of `shards` shards at multiples of 64 bytes (a
/// tensor may span parts; late shards get nothing of a small bucket; the remainders rotate, so that
/// shards are balanced over the model), and every part into slices of at most `slice_bytes`.
///
/// `weights`, one per shard, are the shares that the shards get of every bucket, and of the model
/// to within 64 bytes per bucket; a shard of weight 0 owns nothing. Empty, or all equal: as above.
ps::Layout make_layout(const BucketPlan& plan, int shards, std::size_t slice_bytes = kSliceBytes,
                       const std::vector<std::uint32_t>& weights = {});

/// Weights of shards on these ranks of `world`, whose first `workers` ranks are workers, so that
/// the link that works longest in a step is done as soon as it can be: a host with a slow link owns
/// less, or nothing, if its own workers' gradients are enough for the link. Empty when bandwidths
/// were not measured, or when equal shards take at most a fifth longer. Integers, so that all ranks
/// cut alike.
std::vector<std::uint32_t> shard_weights(const group::Topology& world,
                                         const std::vector<base::Rank>& servers, int workers);

}  // namespace gearshift::strategy
