#include "sim/simgrid/link.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "gearshift/transport/requests.h"
#include "gearshift/transport/router.h"
#include "sim/simgrid/network.h"

namespace gearshift::sim {

using base::Error;
using base::ErrorCode;

base::Status Sending::wait(base::TimePoint deadline) {
  Actor* self = &scheduler_.current();
  while (!done_) {
    waiters_.push_back(self);
    if (!scheduler_.park(deadline) && !done_) {
      std::erase(waiters_, self);
      return Error(ErrorCode::kTimeout, "a message did not leave in time");
    }
  }
  return error_ ? base::Status(*error_) : base::Status();
}

void Sending::finish(std::optional<Error> error) {
  if (done_) return;
  done_ = true;
  error_ = std::move(error);
  for (Actor* waiter : waiters_) scheduler_.wake(*waiter);
  waiters_.clear();
}

Link::Side::Side(Network& network, int own, int peer)
    : rank(own), router(network.router(own)), matcher(*router, base::Rank(peer)) {}

Link::Link(Network& network, int rank_a, int rank_b) : network_(network) {
  sides_[0] = std::make_unique<Side>(network, rank_a, rank_b);
  sides_[1] = std::make_unique<Side>(network, rank_b, rank_a);
}

transport::Request Link::send(int side, transport::Tag tag, base::ConstBytes head,
                              base::ConstBytes body) {
  if (auto fits = transport::check_outgoing(tag, head, body); !fits) {
    return transport::failed_request(fits.error());
  }
  Side& from = at(side);
  if (from.reason) return transport::failed_request(*from.reason);
  Packet& packet = from.queue.emplace_back();
  packet.link = this;
  packet.side = side;
  packet.tag = tag;
  packet.head.assign(head.begin(), head.end());
  packet.phantom = base::is_phantom(body);
  packet.body = packet.phantom ? base::Buffer::phantom(body.size()) : base::Buffer::copy_of(body);
  packet.ready = network_.occupy_sender(from.rank.value, rank(1 - side).value);
  packet.sending = std::make_shared<Sending>(network_.scheduler());
  transport::Request request(packet.sending);
  from.bytes_sent += packet.bytes();
  ++from.messages_sent;
  if (!from.busy) next_packet(side);
  return request;
}

/// What an alarm is for, by side.
constexpr int kReady = 0, kThrough = 2, kArrival = 4;

void Link::alarm(int what) {
  const int side = what % 2;
  switch (what - side) {
    case kThrough:
      return land(side);
    case kArrival:
      return deliver(side);
    default:
      return network_.carry(*this, side);
  }
}

/// The side is busy from here on.
void Link::next_packet(int side) {
  at(side).busy = true;
  const base::TimePoint ready = at(side).queue.front().ready;
  if (ready > network_.scheduler().now()) {
    network_.scheduler().call_at(ready, *this, kReady + side);
  } else {
    network_.carry(*this, side);
  }
}

void Link::launch(int side) {
  Side& from = at(side);
  if (!from.queue.empty() && network_.loses(from.rank.value, rank(1 - side).value)) {
    from.queue.front().sending->finish(std::nullopt);
    from.queue.pop_front();
    if (!from.queue.empty()) return next_packet(side);
  }
  if (from.queue.empty()) {  // or the link broke meanwhile
    from.busy = false;
    return;
  }
  Packet& packet = from.queue.front();
  const int own = from.rank.value;
  const int peer = rank(1 - side).value;
  packet.begin = network_.scheduler().now();
  network_.count(own, peer, packet.bytes());
  if (const auto takes = network_.local_transfer(own, peer, packet.bytes())) {
    network_.scheduler().call_at(network_.scheduler().now() + *takes, *this, kThrough + side);
    return;
  }
  if (from.route.empty()) from.route = network_.route(own, peer);
  packet.enter(packet.bytes());
}

/// A packet is through all ports.
void Link::land(int side) {
  Side& from = at(side);
  if (from.queue.empty()) return;  // the link broke meanwhile
  from.queue.front().sending->finish(std::nullopt);
  network_.note_transfer(from.rank.value, rank(1 - side).value, from.queue.front().begin);
  from.in_flight.splice(from.in_flight.end(), from.queue, from.queue.begin());
  from.busy = false;
  expect(side);
  if (!from.queue.empty() && !from.busy) next_packet(side);
}

void Link::carry(int side) {
  Side& from = at(side);
  SimScheduler& scheduler = network_.scheduler();
  while (!from.queue.empty()) {
    if (from.queue.front().ready > scheduler.now()) return next_packet(side);
    const bool lost = network_.loses(from.rank.value, rank(1 - side).value);
    if (!lost) {
      network_.transfer(from.rank.value, rank(1 - side).value, from.queue.front().bytes());
    }
    if (from.queue.empty()) break;  // the link broke meanwhile
    from.queue.front().sending->finish(std::nullopt);
    if (lost) {
      from.queue.pop_front();
      continue;
    }
    from.in_flight.splice(from.in_flight.end(), from.queue, from.queue.begin());
    expect(side);
  }
  from.busy = false;
}

/// The latest in flight will be there after the latency and the receiver's processor.
void Link::expect(int side) {
  const base::TimePoint arrival = network_.arrival(at(side).rank.value, rank(1 - side).value);
  if (arrival > network_.scheduler().now()) {
    network_.scheduler().call_at(arrival, *this, kArrival + side);
  } else {
    deliver(side);
  }
}

void Link::deliver(int side) {
  Side& from = at(side);
  Side& to = at(1 - side);
  if (from.in_flight.empty()) return;  // the link broke meanwhile
  Packet packet = std::move(from.in_flight.front());
  from.in_flight.pop_front();
  auto landing = to.matcher.arrive(packet.tag, packet.head, packet.body.size(), packet.phantom);
  if (landing) {
    const base::Bytes into = (*landing)->into;
    if (into.data() != nullptr && packet.body.data() != nullptr && !packet.body.empty()) {
      std::memcpy(into.data(), packet.body.data(), packet.body.size());
    }
    to.bytes_arrived += packet.bytes();
    ++to.messages_arrived;
    to.matcher.complete(*landing);
  } else if (!to.reason) {
    break_link(1 - side, landing.error());
  }
  if (idle(side)) {
    for (Actor* waiter : from.drained) network_.scheduler().wake(*waiter);
    from.drained.clear();
  }
}

Error Link::lost(int side) const {
  const int peer = rank(1 - side).value;
  return {ErrorCode::kPeerLost, "rank " + std::to_string(peer) + " broke the connection", peer};
}

bool Link::end(int side, const Error& reason) {
  Side& here = at(side);
  if (here.reason) return false;
  here.reason = reason;
  for (auto* packets : {&here.queue, &here.in_flight}) {
    for (Packet& packet : *packets) packet.sending->finish(reason);
    here.lost.splice(here.lost.end(), *packets);
  }
  for (Actor* waiter : here.drained) network_.scheduler().wake(*waiter);
  here.drained.clear();
  here.matcher.fail(reason);
  return true;
}

void Link::break_link(int side, const Error& reason) {
  const bool first = end(side, reason);
  abort(side, reason);
  if (first) at(side).router->report_lost(rank(1 - side), reason);
}

void Link::abort(int side, const Error& reason) {
  end(side, reason);
  const Error news = lost(1 - side);
  if (end(1 - side, news)) at(1 - side).router->report_lost(rank(side), news);
}

void Link::close(int side, base::TimePoint deadline) {
  Side& here = at(side);
  SimScheduler& scheduler = network_.scheduler();
  while (!here.reason && !idle(side)) {
    Actor* self = &scheduler.current();
    here.drained.push_back(self);
    if (!scheduler.park(deadline)) {
      std::erase(here.drained, self);
      break;
    }
  }
  end(side, {ErrorCode::kClosed, "this process closed the connection"});
  const int own = rank(side).value;
  end(1 - side,
      {ErrorCode::kClosed, "rank " + std::to_string(own) + " closed the connection", own});
}

transport::Traffic Link::traffic(int side) const {
  const Side& here = *sides_[static_cast<std::size_t>(side)];
  return {.bytes_sent = here.bytes_sent,
          .bytes_received = here.bytes_arrived,
          .messages_sent = here.messages_sent,
          .messages_received = here.messages_arrived};
}

}  // namespace gearshift::sim
