#pragma once

#include <cstddef>

#include "collectives/widen.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/group/group.h"
#include "gearshift/group/window.h"

namespace gearshift::collectives {

/// All-reduce among ranks that see each other's memory: no messages, no bytes on any wire.
///
/// N ranks, B bytes. The ranks choose alike among three ways:
///   flat    up to 1 KiB, and up to 8 KiB of memory that is not attached: each rank copies its data
///           to its stage, and combines all N stages itself. 1 round; a rank reads N·B.
///   direct  all data lie in memory that was attached together (`allocate`, buckets): rank r
///           combines slice r of all N arrays and writes it to all N, in place. 2 rounds; a rank
///           reads B and writes B, which is what memory must move.
///   staged  other memory: in chunks of 256 KiB through the stages, where a rank combines its
///           slice of each chunk; chunk k is copied out once chunk k+1 has been copied in.
///           ⌈B/256 KiB⌉ + 1 rounds; copies 2(N-1)/N·B more than direct, in cache.
/// A round is one value published and N-1 watched (HostSync).
/// Source of direct: shared-address-space reduction, e.g. H. Zhu et al., "Hierarchical collectives
/// in MPICH2", EuroPVM/MPI 2009; J. Hashmi et al., "Designing Efficient Shared Address Space
/// Reduction Collectives for Multi-/Many-cores", IPDPS 2018.
///
/// Elements are combined in the order of ranks, by one rank or by all in the same way:
/// bit-identical everywhere.
base::Status window_all_reduce(group::Group& group, group::Window& window, base::Bytes data,
                               const Reduction& reduction, const Options& options);

base::Status window_barrier(group::Group& group, group::Window& window, const Options& options);

}  // namespace gearshift::collectives
