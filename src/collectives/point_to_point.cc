#include <deque>

#include "collectives/arguments.h"
#include "collectives/operation.h"
#include "collectives/pieces.h"
#include "gearshift/collectives/collectives.h"

namespace gearshift::collectives {
namespace {

/// Posts all pieces, a few ahead of the one that `await` waits for.
template <typename Post, typename Await>
base::Status in_pieces(const Operation& operation, std::size_t bytes, Post post, Await await) {
  const std::size_t pieces = pieces_of(bytes);
  std::deque<transport::Request> under_way;
  std::size_t posted = 0;
  for (std::size_t k = 0; k < pieces; ++k) {
    for (; posted < pieces && posted <= k + kPostedAhead; ++posted)
      under_way.push_back(post(posted));
    const base::Status done = await(under_way.front(), Operation::Position{k, pieces});
    under_way.pop_front();
    if (done) continue;
    for (const auto& request : under_way) operation.withdraw(request);
    return done;
  }
  return {};
}

}  // namespace

base::Status send(group::Group& group, base::ConstBytes data, base::Rank to,
                  const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_peer(group, "send", to));
  const auto operation = Operation::point_to_point(group, "send", options, group.next_send(to));
  return in_pieces(
      operation, data.size(),
      [&](std::size_t k) { return group.link(to).send(operation.tag(k), piece(data, k)); },
      [&](const auto& request, auto at) { return operation.await_send(request, to.value, at); });
}

base::Status recv(group::Group& group, base::Bytes data, base::Rank from, const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_peer(group, "recv", from));
  const auto operation = Operation::point_to_point(group, "recv", options, group.next_recv(from));
  return in_pieces(
      operation, data.size(),
      [&](std::size_t k) { return group.link(from).recv(operation.tag(k), piece(data, k)); },
      [&](const auto& request, auto at) { return operation.await_recv(request, from.value, at); });
}

}  // namespace gearshift::collectives
