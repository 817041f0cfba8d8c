#include "sim/simgrid/link.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

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
  auto message = std::make_shared<Message>();
  message->tag = tag;
  message->head.assign(head.begin(), head.end());
  message->phantom = base::is_phantom(body);
  message->body =
      message->phantom ? base::Buffer::phantom(body.size()) : base::Buffer::copy_of(body);
  message->sending = std::make_shared<Sending>(network_.scheduler());
  from.bytes_sent += message->bytes();
  ++from.messages_sent;
  ++from.under_way;
  post(side, message, network_.occupy_sender(from.rank.value, rank(1 - side).value));
  return transport::Request(message->sending);
}

/// Cuts the message as the tcp transport does, and lets the streams begin.
void Link::post(int side, const std::shared_ptr<Message>& message, base::TimePoint ready) {
  Side& from = at(side);
  const std::uint64_t size = message->body.size();
  constexpr std::uint64_t kStripe = transport::tcp::Options{}.stripe_bytes;
  if (size <= kStripe || network_.capabilities(rank(0).value, rank(1).value).same_host) {
    from.streams[0].whole.push_back({message, message->bytes(), true, ready});
    return start(side * kStreams);
  }
  const std::uint64_t share = (size + kStreams - 1) / kStreams;
  const std::uint64_t chunk = std::min<std::uint64_t>(share, transport::tcp::kMaxChunkBytes);
  message->to_leave = message->to_arrive = static_cast<int>((size + chunk - 1) / chunk);
  std::uint64_t extra = message->head.size();
  for (int i = 0; i < message->to_arrive; ++i) {
    const std::uint64_t begin = static_cast<std::uint64_t>(i) * chunk;
    from.streams[static_cast<std::size_t>(i % kStreams)].chunks.push_back(
        {message, std::min(chunk, size - begin) + std::exchange(extra, 0), false, ready});
  }
  for (int s = 0; s < kStreams; ++s) start(side * kStreams + s);
}

/// What an alarm is for, by lane: a stream of a side.
constexpr int kReady = 0;
constexpr int kArrival = 2 * transport::tcp::Options{}.streams;
constexpr int kPassed = 2 * kArrival;

void Link::alarm(int what) {
  if (what >= kPassed) {
    passed(what - kPassed);
  } else if (what >= kArrival) {
    land(what - kArrival);
  } else {
    network_.carry(*this, what);
  }
}

/// If the stream does nothing and something waits there. It is busy from here on.
void Link::start(int lane) {
  Stream& here = stream(lane);
  if (here.busy || (here.whole.empty() && here.chunks.empty())) return;
  here.busy = true;
  base::TimePoint ready = base::TimePoint::never();
  for (const auto* queue : {&here.whole, &here.chunks}) {
    if (!queue->empty()) ready = std::min(ready, queue->front().ready);
  }
  if (ready > network_.scheduler().now()) {
    network_.scheduler().call_at(ready, *this, kReady + lane);
  } else {
    network_.carry(*this, lane);
  }
}

/// The next frame that is ready: a whole message, if there is one.
std::optional<Link::Frame> Link::take(Stream& here) const {
  for (auto* queue : {&here.whole, &here.chunks}) {
    if (queue->empty() || queue->front().ready > network_.scheduler().now()) continue;
    Frame frame = std::move(queue->front());
    queue->pop_front();
    return frame;
  }
  return std::nullopt;
}

std::optional<Link::Frame> Link::next(Stream& here) const {
  return here.chosen ? std::exchange(here.chosen, std::nullopt) : take(here);
}

/// What the current frame, if it is a message of its own, will wait at the receiver's port.
void Link::note_queue(int lane) {
  Stream& here = stream(lane);
  const int side = side_of(lane);
  here.queued = here.current->whole ? network_.queueing(rank(side).value, rank(1 - side).value)
                                    : base::Duration::zero();
}

/// Puts the current frame on the wire. What follows it is chosen when its rest is in the buffer.
void Link::transmit(int lane) {
  const int from = rank(side_of(lane)).value;
  const int to = rank(1 - side_of(lane)).value;
  Stream& here = stream(lane);
  const std::uint64_t rest = std::min(here.current->bytes, transport::tcp::kUnsentBytes);
  const std::uint64_t first = here.current->bytes - rest;
  const bool bulk = !here.current->whole;
  note_queue(lane);
  if (first > 0) network_.transfer(from, to, first, bulk);
  if (!here.current) return;  // the link broke meanwhile
  here.chosen = take(here);
  network_.transfer(from, to, rest, bulk);
}

void Link::carry(int lane) {
  const int from = at(side_of(lane)).rank.value;
  const int to = rank(1 - side_of(lane)).value;
  Stream& here = stream(lane);
  while ((here.current = next(here))) {
    const bool lost = network_.loses(from, to);
    if (!lost) transmit(lane);
    if (!here.current) break;  // the link broke meanwhile
    leave(lane, lost);
  }
  here.busy = false;
  start(lane);
}

/// The current frame is through the wire, or lost on it.
void Link::leave(int lane, bool lost) {
  Stream& here = stream(lane);
  Frame frame = *std::exchange(here.current, std::nullopt);
  if (--frame.message->to_leave == 0) frame.message->sending->finish(std::nullopt);
  if (lost) {
    if (--frame.message->to_arrive == 0) over(side_of(lane));
    return;
  }
  here.in_flight.push_back(std::move(frame));
  const int side = side_of(lane);
  const base::TimePoint arrival = std::max(
      here.last_arrival, network_.arrival(rank(side).value, rank(1 - side).value) + here.queued);
  here.last_arrival = arrival;
  if (arrival > network_.scheduler().now()) {
    network_.scheduler().call_at(arrival, *this, kArrival + lane);
  } else {
    land(lane);
  }
}

void Link::launch(int lane) {
  const int side = side_of(lane);
  Stream& here = stream(lane);
  while ((here.current = next(here))) {
    if (!network_.loses(rank(side).value, rank(1 - side).value)) {
      const std::uint64_t rest = std::min(here.current->bytes, transport::tcp::kUnsentBytes);
      const std::uint64_t first = here.current->bytes - rest;
      here.passage.rest = first > 0 ? rest : 0;
      here.passage.bulk = !here.current->whole;
      note_queue(lane);
      if (first == 0) here.chosen = take(here);
      return pass(lane, first > 0 ? first : rest);
    }
    leave(lane, true);
  }
  here.busy = false;
  start(lane);
}

void Link::pass(int lane, std::uint64_t bytes) {
  const int from = rank(side_of(lane)).value;
  const int to = rank(1 - side_of(lane)).value;
  SimScheduler& scheduler = network_.scheduler();
  Passage& passage = stream(lane).passage;
  passage.begin = scheduler.now();
  const std::uint64_t timed = network_.begin_transfer(from, to, bytes, passage.bulk);
  if (const auto takes = network_.local_transfer(from, to, timed)) {
    return scheduler.call_at(scheduler.now() + *takes, *this, kPassed + lane);
  }
  if (passage.ports.empty()) {
    passage.link = this;
    passage.lane = lane;
    passage.ports = network_.route(from, to);
  }
  passage.enter(timed);
}

/// All ports are done with what the stream had there.
void Link::passed(int lane) {
  Stream& here = stream(lane);
  network_.end_transfer(rank(side_of(lane)).value, rank(1 - side_of(lane)).value, here.passage.bulk,
                        here.passage.begin);
  if (!here.current) {  // the link broke meanwhile
    here.busy = false;
  } else if (const std::uint64_t rest = std::exchange(here.passage.rest, 0); rest > 0) {
    here.chosen = take(here);
    pass(lane, rest);
  } else {
    leave(lane, false);
    launch(lane);
  }
}

void Link::land(int lane) {
  Stream& here = stream(lane);
  if (here.in_flight.empty()) return;  // the link broke meanwhile
  const std::shared_ptr<Message> message = std::move(here.in_flight.front().message);
  here.in_flight.pop_front();
  if (--message->to_arrive == 0) deliver(side_of(lane), *message);
}

void Link::deliver(int side, const Message& message) {
  Side& to = at(1 - side);
  auto landing = to.matcher.arrive(message.tag, message.head, message.body.size(), message.phantom);
  if (landing) {
    const base::Bytes into = (*landing)->into;
    if (into.data() != nullptr && message.body.data() != nullptr && !message.body.empty()) {
      std::memcpy(into.data(), message.body.data(), message.body.size());
    }
    to.bytes_arrived += message.bytes();
    ++to.messages_arrived;
    to.matcher.complete(*landing);
  } else if (!to.reason) {
    break_link(1 - side, landing.error());
  }
  over(side);
}

/// One message of that side less is under way.
void Link::over(int side) {
  Side& from = at(side);
  if (from.reason || --from.under_way > 0) return;
  for (Actor* waiter : from.drained) network_.scheduler().wake(*waiter);
  from.drained.clear();
}

Error Link::lost(int side) const {
  const int peer = rank(1 - side).value;
  return {ErrorCode::kPeerLost, "rank " + std::to_string(peer) + " broke the connection", peer};
}

bool Link::end(int side, const Error& reason) {
  Side& here = at(side);
  if (here.reason) return false;
  here.reason = reason;
  for (Stream& stream : here.streams) {
    for (auto* frames : {&stream.whole, &stream.chunks, &stream.in_flight}) {
      for (const Frame& frame : *frames) frame.message->sending->finish(reason);
      frames->clear();
    }
    for (auto* frame : {&stream.current, &stream.chosen}) {
      if (*frame) (*frame)->message->sending->finish(reason);
      frame->reset();
    }
  }
  here.under_way = 0;
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
  while (!here.reason && here.under_way > 0) {
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
