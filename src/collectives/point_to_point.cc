#include <algorithm>

#include "collectives/arguments.h"
#include "collectives/operation.h"
#include "gearshift/collectives/collectives.h"

namespace gearshift::collectives {
namespace {

/// Below the transport's bound on one message.
constexpr std::size_t kPieceBytes = std::size_t{1} << 30;

/// Even an empty array is one message, so that unequal sizes are noticed.
std::size_t pieces_of(std::size_t bytes) {
  return std::max<std::size_t>(1, (bytes + kPieceBytes - 1) / kPieceBytes);
}

template <typename View>
View piece(View view, std::size_t k) {
  const std::size_t begin = k * kPieceBytes;
  return base::slice(view, begin, std::min(kPieceBytes, view.size() - begin));
}

}  // namespace

base::Status send(group::Group& group, base::ConstBytes data, base::Rank to,
                  const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_peer(group, "send", to));
  const auto operation = Operation::point_to_point(group, "send", options, group.next_send(to));
  const std::size_t pieces = pieces_of(data.size());
  for (std::size_t k = 0; k < pieces; ++k) {
    const auto request = group.link(to).send(operation.tag(k), piece(data, k));
    GEARSHIFT_RETURN_IF_ERROR(operation.await_send(request, to.value, {k, pieces}));
  }
  return {};
}

base::Status recv(group::Group& group, base::Bytes data, base::Rank from, const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_peer(group, "recv", from));
  const auto operation = Operation::point_to_point(group, "recv", options, group.next_recv(from));
  const std::size_t pieces = pieces_of(data.size());
  for (std::size_t k = 0; k < pieces; ++k) {
    const auto request = group.link(from).recv(operation.tag(k), piece(data, k));
    GEARSHIFT_RETURN_IF_ERROR(operation.await_recv(request, from.value, {k, pieces}));
  }
  return {};
}

}  // namespace gearshift::collectives
