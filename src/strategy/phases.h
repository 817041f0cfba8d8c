#pragma once

#include <optional>
#include <vector>

#include "gearshift/strategy/config.h"

namespace gearshift::strategy {

/// What a strategy consists of, first what it starts with: one phase, or the two of a switch.
std::vector<Phase> phases_of(const Strategy& strategy);

/// How workers reduce among themselves: gradients under All-Reduce, under LocalSgd the changes of
/// parameters. Under servers they do not.
std::optional<AllReduce> exchange_of(const Phase& phase);

/// Whether some phase is a server.
bool has_server(const Strategy& strategy);

}  // namespace gearshift::strategy
