#pragma once

#include <cstddef>

#include "gearshift/group/topology.h"
#include "gearshift/strategy/config.h"
#include "gearshift/strategy/plan.h"

namespace gearshift::strategy {

/// Where nothing is known of the links, or buckets cross none.
inline constexpr std::size_t kUsualBucketBytes = std::size_t{4} << 20;

/// Slices of so many bytes a commit passes while they wait to be sent, and no smaller ones:
/// gradients that travel as halves have half of that on their way.
constexpr std::size_t passed_slice_bytes(Compression compression) {
  return compression == Compression::kBf16 ? 2 * kDedicatedSliceBytes : kDedicatedSliceBytes;
}

/// How large buckets should be for a model of `model_bytes` that starts with `phase`, by the
/// measured links: `topology` is that of the workers under All-Reduce, of all ranks under a server,
/// whose first `workers` ranks are workers.
///
/// With n buckets that take T each, a step waits for n·T where communication takes longer than
/// backward, and for T, the last one, where it hides behind it. How long backward takes is not
/// known beforehand, so n is the one with the least sum of both, (n+1)·T. If T is latency + bytes /
/// bandwidth, those are buckets of about sqrt(model · bandwidth · latency): a model's first
/// gradients are on their way early over fast links, and latency is paid rarely over long ones.
///
/// Under servers small slices of buckets hold up commits where messages queue up. There, a bucket
/// is one slice of 512 KiB for each shard, of 1 MiB if gradients travel as halves: on dedicated
/// servers always; on shards in workers where that is more than kUsualBucketBytes, which it is
/// otherwise. Messages queue up unless hosts are equally near, each worker has a shard, and workers
/// are kept together (BSP; SSP up to 8 workers).
///
/// Otherwise a power of two from 64 KiB to 16 MiB (4 MiB of servers, which take buckets in slices),
/// among hosts that are not equally near to each other from 4 MiB; of exchanges up to 128 MiB where
/// the sum is a tenth less with each doubling: over links that are long and fast. kUsualBucketBytes
/// on one host, and where links were not measured. Equal on all ranks, as the topology is.
std::size_t best_bucket_bytes(std::size_t model_bytes, const Phase& phase,
                              const group::Topology* topology, int workers);

}  // namespace gearshift::strategy
