#pragma once

#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/group/group.h"
#include "gearshift/ps/optimizer.h"
#include "gearshift/strategy/plan.h"

namespace gearshift::strategy {

/// Collective: rank root's optimizer state for all. `mine` has an entry per parameter, and is
/// looked at on root alone. `phantom`: the tensors are.
base::Result<std::vector<ps::StateEntry>> broadcast_state(
    group::Group& workers, const std::vector<ParameterSpec>& parameters,
    std::vector<ps::StateEntry> mine, base::Rank root, bool phantom);

}  // namespace gearshift::strategy
