#include "collectives/arguments.h"
#include "collectives/operation.h"
#include "collectives/pieces.h"
#include "gearshift/collectives/collectives.h"

namespace gearshift::collectives {

base::Status send(group::Group& group, base::ConstBytes data, base::Rank to,
                  const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_peer(group, "send", to));
  const auto operation = Operation::point_to_point(group, "send", options, group.next_send(to));
  return move_pieces(operation, to.value, data);
}

base::Status recv(group::Group& group, base::Bytes data, base::Rank from, const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_peer(group, "recv", from));
  const auto operation = Operation::point_to_point(group, "recv", options, group.next_recv(from));
  return move_pieces(operation, from.value, data);
}

}  // namespace gearshift::collectives
