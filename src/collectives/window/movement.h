#pragma once

#include <vector>

#include "collectives/widen.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/group/group.h"
#include "gearshift/group/window.h"

namespace gearshift::collectives {

/// Collectives among N ranks that see each other's memory: no messages. Data pass through the
/// stages in chunks of 256 KiB; a round is one value published and N-1 watched (HostSync).

/// Each rank copies its part in and the others' out. ⌈largest part / 256 KiB⌉ rounds, one at least;
/// a rank copies B bytes in all. `name` must live for ever.
base::Status window_all_gather(group::Group& group, group::Window& window, const char* name,
                               const std::vector<base::Bytes>& parts, const Options& options);

/// The root copies in, the others out. ⌈B / 256 KiB⌉ rounds, one at least. All wait for all.
base::Status window_broadcast(group::Group& group, group::Window& window, base::Bytes data,
                              base::Rank root, const Options& options);

/// Each rank copies the others' parts in, and combines what all have of its own. Elements are
/// combined in the order of ranks, as by window_all_reduce, of which this is a part: float16 and
/// bfloat16 in float32, rounded once. `parts` are this rank's data, `out` may be its own part.
base::Status window_reduce_scatter(group::Group& group, group::Window& window,
                                   const std::vector<base::Bytes>& parts, base::Bytes out,
                                   const Reduction& reduction, const Options& options);

}  // namespace gearshift::collectives
