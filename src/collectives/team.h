#pragma once

#include <span>

#include "collectives/segments.h"

namespace gearshift::collectives {

/// Ranks that carry out an algorithm among themselves, in the order in which it numbers them, seen
/// from one of them. A view.
struct Team {
  std::span<const int> ranks;
  int self = 0;  ///< own position

  int size() const { return static_cast<int>(ranks.size()); }
  /// The rank at a position, which may lie beyond either end.
  int rank(int position) const { return ranks[static_cast<std::size_t>(modulo(position, size()))]; }
};

}  // namespace gearshift::collectives
