#include "collectives/broadcast/tree.h"

#include <bit>

#include "collectives/broadcast/relay.h"
#include "collectives/segments.h"

namespace gearshift::collectives {

base::Status tree_broadcast(Operation& operation, base::Bytes data, int root) {
  const int n = operation.size();
  const int v = modulo(operation.rank() - root, n);
  const auto rank_of = [&](int number) { return modulo(number + root, n); };
  const int lowest_bit = v & -v;
  Place place;
  if (v > 0) place.parent = rank_of(v - lowest_bit);
  int distance =
      v > 0 ? lowest_bit / 2 : static_cast<int>(std::bit_ceil(static_cast<unsigned>(n))) / 2;
  for (; distance > 0; distance /= 2) {
    if (v + distance < n) place.children.push_back(rank_of(v + distance));
  }
  return relay(operation, data, tree_broadcast_pieces(data.size()), place);
}

}  // namespace gearshift::collectives
