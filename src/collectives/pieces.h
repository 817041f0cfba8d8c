#pragma once

#include <algorithm>
#include <cstddef>

#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// What two ranks send each other whose sizes only they know: every message but the last is so
/// large, and the last is smaller, if need be empty: so unequal sizes are noticed. Small enough
/// that a slow link moves one well within any timeout, and that many are under way at once; large
/// enough that a message's own cost is nothing.
inline constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
/// Posted ahead of the one that is waited for, so that the link never rests between two.
inline constexpr std::size_t kPostedAhead = 3;

constexpr std::size_t pieces_of(std::size_t bytes) { return bytes / kPieceBytes + 1; }

template <typename View>
View piece(View view, std::size_t k) {
  const std::size_t begin = k * kPieceBytes;
  return base::slice(view, begin, std::min(kPieceBytes, view.size() - begin));
}

}  // namespace gearshift::collectives
