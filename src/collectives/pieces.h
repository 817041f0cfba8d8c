#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <type_traits>

#include "collectives/operation.h"
#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/transport/connection.h"

namespace gearshift::collectives {

/// What two ranks send each other whose sizes only they know: every message but the last is so
/// large, and the last is smaller, if need be empty: so unequal sizes are noticed. Small enough
/// that a slow link moves one well within any timeout, and that many are under way at once; large
/// enough that a message's own cost is nothing.
inline constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
/// Posted ahead of the one that is waited for, so that the link never rests between two.
inline constexpr std::size_t kPostedAhead = 3;

constexpr std::size_t pieces_of(std::size_t bytes) { return bytes / kPieceBytes + 1; }

template <typename View>
View piece(View view, std::size_t k) {
  const std::size_t begin = k * kPieceBytes;
  return base::slice(view, begin, std::min(kPieceBytes, view.size() - begin));
}

/// The pieces of a view on their way to a peer (of base::ConstBytes) or from one (base::Bytes): all
/// posted at once, or a few ahead of the one that is waited for.
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
  void post_all() { post_until(count_); }
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
  /// After a failure: the memory is free afterwards.
  void withdraw() {
    for (const auto& request : under_way_) operation_.withdraw(request);
    under_way_.clear();
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

/// Waits for all of them, and posts what is not posted.
template <typename View>
base::Status finish(Pieces<View>& pieces) {
  for (std::size_t k = 0; k < pieces.count(); ++k) {
    pieces.post_until(k);
    const base::Status done = pieces.await(k);
    if (done) continue;
    pieces.withdraw();
    return done;
  }
  return {};
}

/// All of a view to, or from, one peer.
template <typename View>
base::Status move_pieces(const Operation& operation, int peer, View view) {
  Pieces<View> pieces(operation, view, peer);
  return finish(pieces);
}

}  // namespace gearshift::collectives
