#pragma once

#include <vector>

#include "bindings.h"
#include "gearshift/sim/simulate.h"

namespace gearshift::python {

/// What Python gets of a worker's steps, and of a timeline; defined in sim.cc.
nb::dict worker_dict(const sim::WorkerResult& worker);
nb::list span_list(const std::vector<sim::Span>& timeline);

/// Real jobs whose computation is sleeping; gearshift.sim.paced is the user's way to them.
void bind_paced(nb::module_& m);

}  // namespace gearshift::python
