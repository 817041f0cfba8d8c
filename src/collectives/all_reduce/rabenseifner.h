#pragma once

#include "collectives/operation.h"
#include "collectives/team.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::collectives {

/// Rabenseifner's algorithm: reduce-scatter by recursive halving, then all-gather by recursive
/// doubling. In step k, partners at distance 2^k share out the range that both still work on: each
/// sends one half, and combines the other. The steps back are the same in reverse. The nearest
/// partners exchange the most, so with the ranks of a host side by side in the team little crosses
/// between hosts: on H hosts with m ranks each, both powers of two, 2(H-1)/H·B out of each host.
///
/// With P the largest power of two not above N and R = N-P, the first 2R positions fold in pairs
/// as in recursive doubling.
///
/// N ranks, B bytes; P divides B's elements, or a half is one element larger than the other.
/// S(k) = segments_for(B/2^k). Per rank:
///   steps     2·log2 P, plus 2 if R > 0
///   messages  a player: 2·(S(1) + … + S(log2 P)) sent, as many received (minus empty segments):
///             about 2·(B/kSegmentBytes + log2 P); a folded rank (even position < 2R): S(0) of
///             each; its partner: S(0) of each more
///   bytes     2(P-1)/P·B sent, as many received; plus B of each for a folded rank's partner; B of
///             each for a folded rank
///   combines  (P-1)/P·B bytes, plus B for a folded rank's partner; none for a folded rank
///   memory    min(max(8, W), S(1)) segments (W: in_flight.h), S(0) if R > 0
/// Source: R. Rabenseifner, "Optimization of collective reduction operations", ICCS 2004; R. Thakur
/// et al., IJHPCA 19(1), 2005, section 4.5.
///
/// Each range is combined on one rank and then copied: bit-identical everywhere. A mean is divided
/// where a range is complete.
base::Status rabenseifner_all_reduce(Operation& operation, const Team& team, base::Bytes data,
                                     base::DType dtype, base::ReduceOp op);

}  // namespace gearshift::collectives
