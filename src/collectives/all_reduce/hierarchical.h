#pragma once

#include <cstddef>

#include "collectives/operation.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"
#include "gearshift/group/topology.h"

namespace gearshift::collectives {

/// Host by host: reduce-scatter within each host, all-reduce of each slice among the ranks with the
/// same place in their hosts, all-gather within each host. Hosts may have different numbers of
/// ranks: the array is cut into L slices, L the ranks of the smallest host; the first L ranks of a
/// host, its owners, own one each, and the others only contribute and listen.
///
/// Between hosts, slices travel round the ring of hosts, or by recursive doubling, or, where hosts
/// are at several sites (Topology::sites), site by site: in the same way once more, with sites for
/// hosts, and hosts for ranks. That which is predicted to be the fastest (see cost.h); all slices
/// alike.
///
/// N ranks on H hosts, m on the own one, M on the largest; B bytes, |l| bytes of slice l, |l,h| of
/// part h of slice l cut into H; S = segments_for(max(|0,0|, |0|/4)), or segments_for(|0|) when not
/// by ring. Without sites, the owner of slice l in the host at position h of the ring:
///   steps     2(M-1), plus 2(H-1) (ring) or log2 P, plus 2 if H isn't a power of two (doubling)
///   within    sends B-|l| and (m-1)·|l|, receives (m-1)·|l| and B-|l| bytes; for each slice S
///             messages
///   between   ring: 2|l| - |l,h| - |l,h+1| sent, 2|l| - |l,h-1| - |l,h| received, 2(H-1)·S
///             messages; doubling: as recursive_doubling.h for |l| bytes
///   combines  (m-1)·|l| bytes, and what the ring or doubling of |l| bytes combines
///   memory    min(max(8, W), S) segments (W: in_flight.h)
/// Others: send and receive B bytes within the host.
/// By sites: `between` is that of an all-reduce of |l| bytes over H ranks, with sites for hosts.
///
/// Out of each host, and into it, go 2(H-1)/H·B bytes by ring, which is the minimum for any
/// algorithm whose hosts are equal. For 2 hosts that is B per direction, by ring or doubling
/// alike. Two hosts with two ranks each: a flat ring, where every rank sends 2·3/4·B, sends 3B out
/// of each host when its neighbours alternate between hosts: of that this is a third. When the
/// ring has the ranks of a host side by side, it sends 1.5B out of each: of that, two thirds.
/// As much goes out of each of Z sites, with Z for H: two sites of four hosts send B each way over
/// the link between them, where a ring sends 2·7/8·B, and each slice crosses it once (doubling) or
/// twice, where a ring's parts wait for it in each of 14 steps.
/// Source: J. L. Träff, A. Rougier, "MPI collectives and datatypes for hierarchical all-to-all
/// communication", EuroMPI 2014 (full-lane decomposition); K. Kandalla et al., "Designing
/// multi-leader-based allgather algorithms for multi-core clusters", IPDPS 2009.
///
/// Each slice is combined within a host on one rank, between hosts as in the ring or doubling:
/// bit-identical everywhere. A mean is divided where a part is complete.
base::Status hierarchical_all_reduce(Operation& operation, const group::Topology& topology,
                                     base::Bytes data, base::DType dtype, base::ReduceOp op);

}  // namespace gearshift::collectives
