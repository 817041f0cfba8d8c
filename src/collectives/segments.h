#pragma once

#include <algorithm>
#include <cstddef>

#include "gearshift/base/bytes.h"
#include "gearshift/collectives/collectives.h"

namespace gearshift::collectives {

/// Bytes of one message of a pipelined operation: large enough that a message's fixed cost
/// vanishes, small enough that a segment is still in cache when it is combined.
inline constexpr std::size_t kSegmentBytes = 256 * 1024;
/// Segments that one rank sends, and is ready to receive, ahead of the one that it works on; more
/// over long links (in_flight.h).
inline constexpr std::size_t kWindow = 4;

/// Into how many segments a part of `bytes` bytes is cut; at least one.
constexpr std::size_t segments_for(std::size_t bytes) {
  return std::max<std::size_t>(1, (bytes + kSegmentBytes - 1) / kSegmentBytes);
}

/// Segment k of `count` of a view that holds elements of `unit` bytes.
template <typename View>
View segment(View view, std::size_t unit, std::size_t count, std::size_t k) {
  const std::size_t elements = view.size() / unit;
  const std::size_t begin = part_begin(elements, count, k) * unit;
  const std::size_t end = part_begin(elements, count, k + 1) * unit;
  return base::slice(view, begin, end - begin);
}

/// Part r of `parts` of an array with elements of `unit` bytes: the cut of reduce_scatter.
inline base::Bytes part(base::Bytes data, std::size_t unit, int parts, int r) {
  return segment(data, unit, static_cast<std::size_t>(parts), static_cast<std::size_t>(r));
}

/// a mod n, in 0 … n-1 for negative a, too.
constexpr int modulo(int a, int n) { return ((a % n) + n) % n; }

}  // namespace gearshift::collectives
