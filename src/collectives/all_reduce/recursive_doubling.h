#pragma once

#include "collectives/operation.h"
#include "collectives/schedule.h"
#include "collectives/team.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::collectives {

/// Recursive doubling: in step k, partners at distance 2^k exchange everything and both combine it.
/// With P the largest power of two not above N and R = N-P, the first 2R positions of the team fold
/// in pairs: the even one hands its array to the odd one and gets the result back at the end.
///
/// N ranks, B bytes, S = segments_for(B). Per rank:
///   steps     log2 P, plus 2 if R > 0
///   messages  folded (even position < 2R): S sent, S received; its partner: (1 + log2 P)·S of
///             each; the others: log2 P · S of each
///   bytes     messages / S · B
///   combines  log2 P · B bytes, plus B for a folded rank's partner; none for a folded rank
///   memory    min(max(8, W), S) segments (W: in_flight.h)
/// Source: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication
/// operations in MPICH", IJHPCA 19(1), 2005, section 4.5.
///
/// Both partners combine in the order of positions, so the result is bit-identical everywhere; a
/// mean is divided on each rank, from equal sums.
base::Status recursive_doubling_all_reduce(Operation& operation, const Team& team, base::Bytes data,
                                           base::DType dtype, base::ReduceOp op);

/// The same as steps of a schedule. `ends_mean`: the result is complete over the whole group.
void append_recursive_doubling(const Team& team, base::Bytes data, bool ends_mean,
                               Schedule& schedule);

}  // namespace gearshift::collectives
