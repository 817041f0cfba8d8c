#include <algorithm>
#include <deque>

#include "collectives/arguments.h"
#include "collectives/operation.h"
#include "gearshift/collectives/collectives.h"

namespace gearshift::collectives {
namespace {

/// Every message but the last is so large, and the last is smaller, if need be empty: so unequal
/// sizes are noticed. Small enough that a slow link moves one well within any timeout, and that
/// many are under way at once; large enough that a message's own cost is nothing.
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
/// Posted ahead of the one that is waited for, so that the link never rests between two.
constexpr std::size_t kPostedAhead = 3;

template <typename View>
View piece(View view, std::size_t k) {
  const std::size_t begin = k * kPieceBytes;
  return base::slice(view, begin, std::min(kPieceBytes, view.size() - begin));
}

/// Posts all pieces, a few ahead of the one that `await` waits for.
template <typename Post, typename Await>
base::Status in_pieces(const Operation& operation, std::size_t bytes, Post post, Await await) {
  const std::size_t pieces = bytes / kPieceBytes + 1;
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
