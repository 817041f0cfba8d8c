#include "transport/inproc/link.h"

#include <cstring>
#include <mutex>
#include <string>

#include "gearshift/transport/requests.h"

namespace gearshift::transport::inproc {

using base::Error;
using base::ErrorCode;

Link::Link(End a, End b) {
  const base::Rank rank_a = a.rank;
  const base::Rank rank_b = b.rank;
  sides_[0] = std::make_unique<Side>(std::move(a), rank_b);
  sides_[1] = std::make_unique<Side>(std::move(b), rank_a);
}

std::shared_ptr<Link> Link::make(End a, End b) {
  std::shared_ptr<Link> link(new Link(std::move(a), std::move(b)));
  for (int side : {0, 1}) {
    link->at(side).matcher.on_stuck([weak = link->weak_from_this(), side](const Error& reason) {
      if (auto self = weak.lock()) self->break_link(side, reason);
    });
  }
  return link;
}

Request Link::send(int side, Tag tag, base::ConstBytes head, base::ConstBytes body) {
  if (auto fits = check_outgoing(tag, head, body); !fits) return failed_request(fits.error());
  Side& to = at(1 - side);
  std::optional<Error> refused;
  {
    std::lock_guard<base::Monitor> lock(*to.arriving);
    auto landing = to.matcher.arrive(tag, head, body.size(), base::is_phantom(body));
    if (landing) {
      const base::Bytes into = (*landing)->into;
      if (into.data() != nullptr && body.data() != nullptr && !body.empty()) {
        std::memcpy(into.data(), body.data(), body.size());
      }
      to.matcher.complete(*landing);
      to.bytes_in.fetch_add(head.size() + body.size(), std::memory_order_relaxed);
      to.messages_in.fetch_add(1, std::memory_order_relaxed);
      return {};
    }
    refused = landing.error();
  }
  // The receiver breaks the link over what it was sent, as it would across a network.
  if (!ended()) break_link(1 - side, *refused);
  Side& from = at(side);
  std::lock_guard<base::Monitor> lock(*from.arriving);
  return failed_request(from.reason.value_or(*refused));
}

Error Link::lost(int side) const {
  const int peer_rank = peer(side).value;
  return {ErrorCode::kPeerLost, "rank " + std::to_string(peer_rank) + " broke the connection",
          peer_rank};
}

bool Link::end(int side, const Error& reason) {
  ended_.store(true, std::memory_order_release);
  Side& here = at(side);
  std::lock_guard<base::Monitor> lock(*here.arriving);
  if (here.reason) return false;
  here.reason = reason;
  here.matcher.fail(reason);
  return true;
}

void Link::break_link(int side, const Error& reason) {
  const bool first = end(side, reason);
  abort(side, reason);
  if (first) at(side).end.router->report_lost(peer(side), reason);
}

void Link::abort(int side, const Error& reason) {
  end(side, reason);
  const Error news = lost(1 - side);
  if (end(1 - side, news)) at(1 - side).end.router->report_lost(at(side).end.rank, news);
}

void Link::close(int side) {
  end(side, {ErrorCode::kClosed, "this process closed the connection"});
  const int rank = at(side).end.rank.value;
  end(1 - side,
      {ErrorCode::kClosed, "rank " + std::to_string(rank) + " closed the connection", rank});
}

Traffic Link::traffic(int side) const {
  const Side& here = *sides_[static_cast<std::size_t>(side)];
  const Side& there = *sides_[static_cast<std::size_t>(1 - side)];
  return {.bytes_sent = there.bytes_in.load(std::memory_order_relaxed),
          .bytes_received = here.bytes_in.load(std::memory_order_relaxed),
          .messages_sent = there.messages_in.load(std::memory_order_relaxed),
          .messages_received = here.messages_in.load(std::memory_order_relaxed)};
}

InprocConnection::~InprocConnection() {
  link_->abort(side_, {ErrorCode::kClosed, "the connection was destroyed"});
}

}  // namespace gearshift::transport::inproc
