#include "collectives/blocks.h"

#include <algorithm>
#include <cstring>

#include "collectives/pieces.h"
#include "collectives/segments.h"

namespace gearshift::collectives {
namespace {

base::Status exchange(const Operation& operation, int to, base::ConstBytes sent, int from,
                      base::Bytes into) {
  Pieces<base::ConstBytes> sends(operation, sent, to);
  Pieces<base::Bytes> receives(operation, into, from);
  for (std::size_t k = 0; k < std::max(sends.count(), receives.count()); ++k) {
    receives.post_until(k);
    sends.post_until(k);
    base::Status done;
    if (k < receives.count()) done = receives.await(k);
    if (done && k < sends.count()) done = sends.await(k);
    if (done) continue;
    receives.withdraw();
    sends.withdraw();
    return done;
  }
  return {};
}

void copy_block(base::ConstBytes from, base::Bytes into) {
  const bool real = from.data() != nullptr && into.data() != nullptr && from.data() != into.data();
  if (real && !from.empty()) std::memmove(into.data(), from.data(), from.size());
}

/// The root's part: all peers' blocks are under way at once, so that nobody waits for its turn
/// while others are slow, or have much to move. Who sends another size than is taken spoils it for
/// nobody else; the first error is the outcome.
template <typename View>
base::Status serve(const Operation& operation, const std::vector<View>& blocks) {
  const int n = operation.size();
  std::vector<Pieces<View>> peers;
  peers.reserve(blocks.size());
  for (int s = 1; s < n; ++s) {
    const int peer = modulo(operation.rank() + s, n);
    peers.emplace_back(operation, blocks[static_cast<std::size_t>(peer)], peer).post_all();
  }
  base::Status outcome;
  for (auto pieces = peers.begin(); pieces != peers.end(); ++pieces) {
    const base::Status done = finish(*pieces);
    if (done) continue;
    if (outcome) outcome = done;
    if (done.error().code == base::ErrorCode::kMismatch) continue;
    for (auto other = pieces; other != peers.end(); ++other) other->withdraw();
    break;
  }
  return outcome;
}

}  // namespace

base::Status exchange_blocks(Operation& operation, const std::vector<base::ConstBytes>& to,
                             const std::vector<base::Bytes>& from) {
  const int n = operation.size();
  const int r = operation.rank();
  const auto at = [](int rank) { return static_cast<std::size_t>(rank); };
  copy_block(to[at(r)], from[at(r)]);
  for (int s = 1; s < n; ++s) {
    const int next = modulo(r + s, n);
    const int before = modulo(r - s, n);
    GEARSHIFT_RETURN_IF_ERROR(exchange(operation, next, to[at(next)], before, from[at(before)]));
  }
  return {};
}

base::Status gather_blocks(Operation& operation, base::Rank root, base::ConstBytes own,
                           const std::vector<base::Bytes>& from) {
  const int r = operation.rank();
  if (r != root.value) return move_pieces(operation, root.value, own);
  copy_block(own, from[static_cast<std::size_t>(r)]);
  return serve(operation, from);
}

base::Status scatter_blocks(Operation& operation, base::Rank root,
                            const std::vector<base::ConstBytes>& to, base::Bytes own) {
  const int r = operation.rank();
  if (r != root.value) return move_pieces(operation, root.value, own);
  copy_block(to[static_cast<std::size_t>(r)], own);
  return serve(operation, to);
}

}  // namespace gearshift::collectives
