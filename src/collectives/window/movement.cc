#include "collectives/window/movement.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "collectives/window/operation.h"
#include "collectives/window/stages.h"
#include "gearshift/kernels/reduce.h"

namespace gearshift::collectives {
namespace {

using base::Bytes;
using base::Status;

std::size_t chunks_of(std::size_t bytes, std::size_t chunk) { return (bytes + chunk - 1) / chunk; }

/// Chunk k of `data`, which may have ended before.
Bytes chunk_of(Bytes data, std::size_t k, std::size_t chunk) {
  const std::size_t begin = std::min(data.size(), k * chunk);
  return data.subspan(begin, std::min(chunk, data.size() - begin));
}

std::size_t largest(const std::vector<Bytes>& parts) {
  std::size_t most = 0;
  for (const Bytes part : parts) most = std::max(most, part.size());
  return most;
}

std::size_t total(const std::vector<Bytes>& parts) {
  std::size_t bytes = 0;
  for (const Bytes part : parts) bytes += part.size();
  return bytes;
}

void take_out(Bytes into, const std::byte* from) {
  if (!into.empty()) std::memcpy(into.data(), from, into.size());
}

}  // namespace

Status window_all_gather(group::Group& group, group::Window& window, const char* name,
                         const std::vector<Bytes>& parts, const Options& options) {
  WindowOperation operation(group, window, name, options);
  GEARSHIFT_RETURN_IF_ERROR(operation.begin());
  const auto self = static_cast<std::size_t>(operation.rank());
  StageHeader mine;
  mine.use = StageUse::kAllGather;
  mine.bytes = total(parts);
  mine.own = parts[self].size();
  Passage passage;
  passage.chunks = chunks_of(largest(parts), kStageChunk);
  passage.bring = [&](std::size_t k, std::byte* into) {
    const Bytes chunk = chunk_of(parts[self], k, kStageChunk);
    copy_shared(into, chunk.data(), chunk.size());
  };
  passage.take = [&](std::size_t k, const Passage::At& at) {
    for (std::size_t r = 0; r < parts.size(); ++r) {
      if (r != self) take_out(chunk_of(parts[r], k, kStageChunk), at(static_cast<int>(r)));
    }
  };
  return pass_through_stages(operation, mine, passage, [&](int r, const StageHeader& said) {
    const std::size_t wanted = parts[static_cast<std::size_t>(r)].size();
    return said.own == wanted ? std::string()
                              : "brings " + std::to_string(said.own) +
                                    " bytes, and this one takes " + std::to_string(wanted);
  });
}

Status window_broadcast(group::Group& group, group::Window& window, Bytes data, base::Rank root,
                        const Options& options) {
  WindowOperation operation(group, window, "broadcast (window)", options);
  GEARSHIFT_RETURN_IF_ERROR(operation.begin());
  const bool gives = operation.rank() == root.value;
  StageHeader mine;
  mine.use = StageUse::kBroadcast;
  mine.bytes = data.size();
  mine.own = static_cast<std::uint64_t>(root.value);
  Passage passage;
  passage.chunks = chunks_of(data.size(), kStageChunk);
  passage.bring = [&](std::size_t k, std::byte* into) {
    const Bytes chunk = chunk_of(data, k, kStageChunk);
    if (gives) copy_shared(into, chunk.data(), chunk.size());
  };
  passage.take = [&](std::size_t k, const Passage::At& at) {
    if (!gives) take_out(chunk_of(data, k, kStageChunk), at(root.value));
  };
  return pass_through_stages(operation, mine, passage, [&](int, const StageHeader& said) {
    return said.own == mine.own
               ? std::string()
               : "takes it from rank " + std::to_string(said.own) +
                     " of this group, this one from rank " + std::to_string(mine.own);
  });
}

Status window_reduce_scatter(group::Group& group, group::Window& window,
                             const std::vector<Bytes>& parts, Bytes out, const Reduction& reduction,
                             const Options& options) {
  WindowOperation operation(group, window, "reduce_scatter (window)", options);
  GEARSHIFT_RETURN_IF_ERROR(operation.begin());
  const auto self = static_cast<std::size_t>(operation.rank());
  const std::size_t chunk =
      std::max(kStageLine, kStageChunk / parts.size() / kStageLine * kStageLine);
  StageHeader mine;
  mine.use = StageUse::kReduceScatter;
  mine.bytes = total(parts);
  mine.dtype = reduction.meant;
  mine.op = reduction.op;
  Passage passage;
  passage.chunks = chunks_of(largest(parts), chunk);
  passage.bring = [&](std::size_t k, std::byte* into) {
    for (std::size_t r = 0; r < parts.size(); ++r) {
      const Bytes segment = chunk_of(parts[r], k, chunk);
      if (r != self) copy_shared(into + r * chunk, segment.data(), segment.size());
    }
  };
  std::vector<const std::byte*> from(parts.size());
  const bool mean = reduction.op == base::ReduceOp::kMean;
  const bool divides = mean && !base::is_floating(reduction.dtype);
  const double scale = mean && !divides ? 1.0 / operation.size() : 1.0;
  passage.take = [&](std::size_t k, const Passage::At& at) {
    const Bytes into = chunk_of(out, k, chunk);
    if (into.empty()) return;
    for (std::size_t r = 0; r < parts.size(); ++r) {
      from[r] = r == self ? chunk_of(parts[self], k, chunk).data()
                          : at(static_cast<int>(r)) + self * chunk;
    }
    std::byte* const to = into.data();
    kernels::reduce_many(reduction.dtype, reduction.op, {from, {&to, 1}, into.size(), {}, scale});
    if (divides) kernels::divide(reduction.dtype, into, operation.size());
  };
  return pass_through_stages(operation, mine, passage, {});
}

}  // namespace gearshift::collectives
