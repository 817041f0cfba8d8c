#pragma once

#include <cstddef>
#include <vector>

#include "collectives/operation.h"
#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// One rank's place in a tree along which data flows.
struct Place {
  int parent = -1;            ///< -1: the root
  std::vector<int> children;  ///< in the order in which they are served
};

/// Receives `data` from the parent and passes it on to the children, segment by segment: a segment
/// leaves as soon as it has come. Message k on each link is segment k.
base::Status relay(Operation& operation, base::Bytes data, std::size_t segments,
                   const Place& place);

}  // namespace gearshift::collectives
