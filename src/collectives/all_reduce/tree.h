#pragma once

#include <cstddef>

#include "collectives/operation.h"
#include "collectives/team.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::collectives {

/// Two complementary binary trees, pipelined (see two_trees.h): even packets are combined up the
/// first tree and come down it again, odd packets take the second, so that all ranks are equally
/// busy. For arrays of medium size over many ranks, and numbers of ranks far from a power of two.
///
/// N ranks, B bytes, Q = tree_packets(B) packets, d(t) the number of neighbours of a position in
/// tree t, B(t) the bytes of the packets in tree t (B/2 when Q is even). Per rank:
///   steps     about 2.5·Q + 4·log2 N (see two_trees.h); idle ones cost nothing
///   messages  d(0)·⌈Q/2⌉ + d(1)·⌊Q/2⌋ sent, as many received (minus empty packets); d(0)+d(1) ≤ 4
///   bytes     d(0)·B(0) + d(1)·B(1) sent, as many received: at most 2B
///   combines  one packet for each that comes from a child: at most B bytes
///   memory    one packet
/// Source: P. Sanders, J. Speck, J. L. Träff, "Two-tree algorithms for full bandwidth broadcast,
/// reduction and scan", Parallel Computing 35(12), 2009.
///
/// A packet is complete at the root of its tree, where a mean is divided, and copied from there:
/// bit-identical everywhere.
base::Status tree_all_reduce(Operation& operation, const Team& team, base::Bytes data,
                             base::DType dtype, base::ReduceOp op);

/// Packets of about 64 KiB, an even number, at most 256.
std::size_t tree_packets(std::size_t bytes);

}  // namespace gearshift::collectives
