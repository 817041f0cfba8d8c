#pragma once

#include <algorithm>
#include <cstddef>

#include "collectives/operation.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// In how many messages an array of so many bytes goes along a link: one, unless it is so long that
/// the others could do something meanwhile, or a message could not hold it.
constexpr std::size_t tree_broadcast_pieces(std::size_t bytes) {
  constexpr std::size_t kMostBytes = std::size_t{64} << 20;
  return std::max<std::size_t>(1, (bytes + kMostBytes - 1) / kMostBytes);
}

/// Binomial tree, for small arrays: who has the data doubles in each step. With v = r - root mod N,
/// rank v > 0 receives from v without its lowest set bit, and then serves v + 2^j for each 2^j
/// below that bit (any 2^j below N for v = 0), the furthest first.
///
/// N ranks, B bytes, c children (their number follows from v as above), P pieces. Per rank:
///   steps     ceil(log2 N) for the last rank (of one piece)
///   messages  c·P sent, P received (root: 0)
///   bytes     c·B sent, B received (root: 0)
///   memory    none
/// Source: R. Thakur, R. Rabenseifner, W. Gropp, IJHPCA 19(1), 2005, section 4.2.
base::Status tree_broadcast(Operation& operation, base::Bytes data, int root);

}  // namespace gearshift::collectives
