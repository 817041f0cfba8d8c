#pragma once

#include "collectives/operation.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// Pairwise exchange: in step s (1 … N-1) rank r sends its block for r+s and receives from r-s, so
/// that every rank sends one block and receives one at a time.
///
/// N ranks, blocks of b bytes, S = segments_for(b). Per rank:
///   steps     N-1
///   messages  (N-1)·S sent, as many received
///   bytes     (N-1)·b each way; the own block is copied
///   memory    none
/// Source: R. Thakur, R. Rabenseifner, W. Gropp, IJHPCA 19(1), 2005, section 4.4.
base::Status pairwise_all_to_all(Operation& operation, base::ConstBytes in, base::Bytes out);

}  // namespace gearshift::collectives
