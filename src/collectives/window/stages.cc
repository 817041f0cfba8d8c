#include "collectives/window/stages.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "collectives/arguments.h"

namespace gearshift::collectives {
namespace {

using base::Status;

inline void prefetch_to_write(const std::byte* line) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*line));  // what __builtin_prefetch does not emit unasked
#else
  __builtin_prefetch(line, 1);
#endif
}

}  // namespace

void copy_shared(std::byte* to, const std::byte* from, std::size_t bytes) {
  constexpr std::size_t kStep = 1024;
  constexpr std::size_t kAhead = 2048;
  for (std::size_t i = 0; i < bytes; i += kStep) {
    const std::size_t n = std::min(kStep, bytes - i);
    const std::size_t end = std::min(bytes, i + kAhead + kStep);
    for (std::size_t k = i + kAhead; k < end; k += kStageLine) prefetch_to_write(to + k);
    std::memcpy(to + i, from + i, n);
  }
}

StageHeader header_at(const std::byte* stage) {
  StageHeader said;
  std::memcpy(&said, stage, sizeof said);
  return said;
}

Status same_use(const WindowOperation& operation, int rank, const StageHeader& said,
                const StageHeader& mine) {
  if (said.round != mine.round || said.use != mine.use)
    return operation.disagreement(
        rank, "is in another operation: all must call the same in the same order");
  if (said.dtype != mine.dtype || said.op != mine.op) {
    return operation.disagreement(rank, "wants the " + reduction_text(said.dtype, said.op) +
                                            ", this one the " +
                                            reduction_text(mine.dtype, mine.op));
  }
  if (said.bytes != mine.bytes) {
    const bool reduces = mine.use == StageUse::kAllReduce || mine.use == StageUse::kReduceScatter;
    return operation.disagreement(rank, (reduces ? "reduces " : "has ") +
                                            std::to_string(said.bytes) + " bytes, this one " +
                                            std::to_string(mine.bytes));
  }
  return {};
}

Status pass_through_stages(
    WindowOperation& operation, StageHeader mine, const Passage& passage,
    const std::function<std::string(int rank, const StageHeader& said)>& fits) {
  group::Window& window = operation.window();
  int part = window.next_part();
  mine.round = window.coming_round();
  std::byte* const own = window.stage(operation.rank(), part);
  std::memcpy(own, &mine, sizeof mine);
  if (passage.chunks > 0) passage.bring(0, own + kStageLine);
  GEARSHIFT_RETURN_IF_ERROR(operation.meet());
  for (int r = 0; r < operation.size(); ++r) {
    const StageHeader said = header_at(window.stage(r, part));
    GEARSHIFT_RETURN_IF_ERROR(same_use(operation, r, said, mine));
    const std::string reason = fits ? fits(r, said) : "";
    if (!reason.empty()) return operation.disagreement(r, reason);
  }
  for (std::size_t k = 0; k < passage.chunks; ++k) {
    const int current = part;
    const bool last = k + 1 == passage.chunks;
    if (!last) {
      part = window.next_part();
      passage.bring(k + 1, window.stage(operation.rank(), part) + kStageLine);
    }
    passage.take(k, [&window, current](int r) { return window.stage(r, current) + kStageLine; });
    if (!last) GEARSHIFT_RETURN_IF_ERROR(operation.meet());
  }
  return {};
}

}  // namespace gearshift::collectives
