#pragma once

#include <vector>

#include "collectives/operation.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// Blocks of sizes that only the two ranks know that exchange one. In step s (1 … N-1) rank r sends
/// its block for r+s and receives from r-s, both at once; the own block is copied.
///
/// N ranks, s(r, t) bytes from r to t, P = pieces_of. Rank r:
///   steps     N-1
///   messages  Σ P(s(r, t)) sent, Σ P(s(t, r)) received, over t ≠ r
///   bytes     Σ s(r, t) sent, Σ s(t, r) received, over t ≠ r
///   memory    none
base::Status exchange_blocks(Operation& operation, const std::vector<base::ConstBytes>& to,
                             const std::vector<base::Bytes>& from);

/// Everybody's block to the root, `from[r]` there, or from it: over all links at once. N ranks,
/// blocks of b bytes: (N-1)·P(b) messages and (N-1)·b bytes at the root, P(b) and b elsewhere.
base::Status gather_blocks(Operation& operation, base::Rank root, base::ConstBytes own,
                           const std::vector<base::Bytes>& from);
base::Status scatter_blocks(Operation& operation, base::Rank root,
                            const std::vector<base::ConstBytes>& to, base::Bytes own);

}  // namespace gearshift::collectives
