#include "collectives/broadcast/chain.h"

#include "collectives/broadcast/relay.h"
#include "collectives/segments.h"

namespace gearshift::collectives {

base::Status chain_broadcast(Operation& operation, base::Bytes data, int root) {
  const int n = operation.size();
  const int v = modulo(operation.rank() - root, n);
  Place place;
  if (v > 0) place.parent = modulo(operation.rank() - 1, n);
  if (v < n - 1) place.children.push_back(modulo(operation.rank() + 1, n));
  return relay(operation, data, segments_for(data.size()), place);
}

}  // namespace gearshift::collectives
