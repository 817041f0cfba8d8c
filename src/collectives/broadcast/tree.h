#pragma once

#include "collectives/operation.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// Binomial tree, for small arrays: who has the data doubles in each step. With v = r - root mod N,
/// rank v > 0 receives from v without its lowest set bit, and then serves v + 2^j for each 2^j
/// below that bit (any 2^j below N for v = 0), the furthest first.
///
/// N ranks, B bytes, c children (their number follows from v as above). Per rank:
///   steps     ceil(log2 N) for the last rank
///   messages  c sent, 1 received (root: 0)
///   bytes     c·B sent, B received (root: 0)
///   memory    none
/// Source: R. Thakur, R. Rabenseifner, W. Gropp, IJHPCA 19(1), 2005, section 4.2.
base::Status tree_broadcast(Operation& operation, base::Bytes data, int root);

}  // namespace gearshift::collectives
