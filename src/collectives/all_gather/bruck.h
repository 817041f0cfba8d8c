#pragma once

#include <cstddef>
#include <vector>

#include "collectives/operation.h"
#include "collectives/team.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// Bruck's all-gather of parts of any sizes: in step k the rank at position i sends all parts that
/// it has, its own and the 2^k - 1 behind it (no more than are missing), to position i - 2^k, and
/// gets as many from i + 2^k. For small arrays over many ranks.
///
/// N ranks, B bytes in all, |p| bytes of part p. Per rank r:
///   steps     ceil(log2 N)
///   messages  ceil(log2 N) sent, as many received (minus those of parts that are all empty)
///   bytes     sent: in step k the parts at positions i … i + min(2^k, N - 2^k) - 1; received:
///             B - |r|. (N-1)/N·B each way when parts are equal
///   memory    B: the parts lie in it one behind the other, own one first
/// Source: J. Bruck, C.-T. Ho, S. Kipnis, E. Upfal, D. Weathersby, "Efficient algorithms for
/// all-to-all communications in multiport message-passing systems", IEEE TPDS 8(11), 1997.
///
/// `parts[r]` is the place of rank r's part, `unit` the bytes of an element.
base::Status bruck_all_gather(Operation& operation, const Team& team,
                              const std::vector<base::Bytes>& parts, std::size_t unit);

/// Whether an all-gather of so many bytes in all goes by Bruck's algorithm rather than by the ring,
/// whose N-1 steps cost more than its bytes save: neighbours in the ring share a host, and partners
/// here do not.
constexpr bool gathers_by_bruck(std::size_t bytes, int ranks) {
  constexpr std::size_t kSmall = std::size_t{32} << 10;
  return ranks > 3 && bytes <= kSmall;
}

}  // namespace gearshift::collectives
