#include "collectives/blocks.h"

#include <cstring>
#include <deque>

#include "collectives/pieces.h"
#include "collectives/segments.h"

namespace gearshift::collectives {
namespace {

/// One direction of an exchange: posts a few pieces ahead of the one that is waited for.
template <typename View>
class Pieces {
 public:
  Pieces(const Operation& operation, View view, int peer)
      : operation_(operation), view_(view), peer_(peer), count_(pieces_of(view.size())) {}

  std::size_t count() const { return count_; }
  void post_until(std::size_t k) {
    for (; posted_ < count_ && posted_ <= k + kPostedAhead; ++posted_) {
      under_way_.push_back(post(posted_));
    }
  }
  base::Status await(std::size_t k) {
    const Operation::Position at{k, count_};
    const transport::Request request = under_way_.front();
    under_way_.pop_front();
    if constexpr (kSends) {
      return operation_.await_send(request, peer_, at);
    } else {
      return operation_.await_recv(request, peer_, at);
    }
  }
  void withdraw() {
    for (const auto& request : under_way_) operation_.withdraw(request);
  }

 private:
  static constexpr bool kSends = std::is_same_v<View, base::ConstBytes>;

  transport::Request post(std::size_t k) {
    if constexpr (kSends) {
      return operation_.link(peer_).send(operation_.tag(k), piece(view_, k));
    } else {
      return operation_.link(peer_).recv(operation_.tag(k), piece(view_, k));
    }
  }

  const Operation& operation_;
  const View view_;
  const int peer_;
  const std::size_t count_;
  std::size_t posted_ = 0;
  std::deque<transport::Request> under_way_;
};

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

template <typename View>
base::Status one_way(const Operation& operation, int peer, View view) {
  Pieces<View> pieces(operation, view, peer);
  for (std::size_t k = 0; k < pieces.count(); ++k) {
    pieces.post_until(k);
    const base::Status done = pieces.await(k);
    if (done) continue;
    pieces.withdraw();
    return done;
  }
  return {};
}

void copy_block(base::ConstBytes from, base::Bytes into) {
  const bool real = from.data() != nullptr && into.data() != nullptr && from.data() != into.data();
  if (real && !from.empty()) std::memmove(into.data(), from.data(), from.size());
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
  if (r != root.value) return one_way(operation, root.value, own);
  copy_block(own, from[static_cast<std::size_t>(r)]);
  for (int s = 1; s < operation.size(); ++s) {
    const int peer = modulo(r + s, operation.size());
    GEARSHIFT_RETURN_IF_ERROR(one_way(operation, peer, from[static_cast<std::size_t>(peer)]));
  }
  return {};
}

base::Status scatter_blocks(Operation& operation, base::Rank root,
                            const std::vector<base::ConstBytes>& to, base::Bytes own) {
  const int r = operation.rank();
  if (r != root.value) return one_way(operation, root.value, own);
  copy_block(to[static_cast<std::size_t>(r)], own);
  for (int s = 1; s < operation.size(); ++s) {
    const int peer = modulo(r + s, operation.size());
    GEARSHIFT_RETURN_IF_ERROR(one_way(operation, peer, to[static_cast<std::size_t>(peer)]));
  }
  return {};
}

}  // namespace gearshift::collectives
