#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "collectives/window/operation.h"
#include "gearshift/base/dtype.h"
#include "gearshift/base/result.h"
#include "gearshift/group/window.h"

namespace gearshift::collectives {

constexpr std::size_t kStageLine = 64;
/// What passes through a stage at a time.
constexpr std::size_t kStageChunk = 256 * 1024;

enum class StageUse : std::uint8_t { kAllReduce, kAllGather, kReduceScatter, kBroadcast };

/// What a rank says at the first round, at the begin of its stage; the payload follows.
struct alignas(kStageLine) StageHeader {
  std::uint64_t bytes = 0;
  double factor = 1;
  group::Window::Place place{};
  std::uint64_t round = 0;  ///< another one stands there when the rank came for something else
  std::uint64_t own = 0;    ///< all_gather: bytes of its part; broadcast: from which rank
  base::DType dtype{};      ///< as the caller has it
  base::ReduceOp op{};
  StageUse use{};
};
static_assert(sizeof(StageHeader) == kStageLine &&
              kStageChunk + kStageLine <= group::Window::kStageBytes);

StageHeader header_at(const std::byte* stage);

/// Whether `rank` does the same: where not, the error that says so.
base::Status same_use(const WindowOperation& operation, int rank, const StageHeader& said,
                      const StageHeader& mine);

/// Copies into memory that another core has read: asks for the lines some way ahead, since a core
/// gets few of them at a time otherwise.
void copy_shared(std::byte* to, const std::byte* from, std::size_t bytes);

/// Brings data through the stages, chunk after chunk: while one is taken out, the next one is
/// brought in. As many rounds as chunks, one at least.
struct Passage {
  std::size_t chunks = 0;  ///< equal on all ranks
  /// Writes this rank's chunk.
  std::function<void(std::size_t chunk, std::byte* into)> bring;
  /// Takes from the chunk of each rank, which `at` finds.
  using At = std::function<const std::byte*(int rank)>;
  std::function<void(std::size_t chunk, const At& at)> take;
};
/// `mine` is told first. `fits` says whether what another rank tells fits to it, beyond use, bytes,
/// dtype and op, which are compared before: the reason where it does not.
base::Status pass_through_stages(
    WindowOperation& operation, StageHeader mine, const Passage& passage,
    const std::function<std::string(int rank, const StageHeader& said)>& fits);

}  // namespace gearshift::collectives
