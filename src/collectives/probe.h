#pragma once

#include "collectives/operation.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/group/topology.h"

namespace gearshift::collectives {

/// Measures the links of a group whose hosts are known (see survey.h). Collective; the result is
/// equal on all ranks. Takes one sequence number.
base::Result<group::LinkSpeeds> probe(group::Group& group, const group::Topology& hosts,
                                      base::Duration budget);

}  // namespace gearshift::collectives
