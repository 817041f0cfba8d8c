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

base::Status Message::wait(base::TimePoint deadline) {
  Actor* self = &scheduler_.current();
  while (!done_) {
    if (waiter_ == nullptr) {
      waiter_ = self;
    } else {
      if (!more_waiters_) more_waiters_ = std::make_unique<std::vector<Actor*>>();
      more_waiters_->push_back(self);
    }
    if (!scheduler_.park(deadline) && !done_) {
      if (waiter_ == self) waiter_ = nullptr;
      if (more_waiters_) std::erase(*more_waiters_, self);
      return Error(ErrorCode::kTimeout, "a message did not leave in time");
    }
  }
  return error_ ? base::Status(*error_) : base::Status();
}

void Message::finish(const Error* error) {
  if (done_) return;
  done_ = true;
  if (error != nullptr) error_ = std::make_unique<Error>(*error);
  if (waiter_ != nullptr) scheduler_.wake(*waiter_);
  if (more_waiters_) {
    for (Actor* waiter : *more_waiters_) scheduler_.wake(*waiter);
  }
  if (const auto then = std::exchange(then_, nullptr)) (*then)();
}

bool Message::when_done(std::function<void()> then) {
  if (done_) {
    then();
  } else {
    then_ = std::make_unique<std::function<void()>>(std::move(then));
  }
  return true;
}

Link::Side::Side(Network& network, int own, int peer)
    : rank(own), router(network.router(own)), matcher(*router, base::Rank(peer)) {}

Link::Link(Network& network, int rank_a, int rank_b)
    : network_(network), sides_{Side(network, rank_a, rank_b), Side(network, rank_b, rank_a)} {}

Link::Stream& Link::stream(int lane) {
  auto& stream = at(side_of(lane)).streams[static_cast<std::size_t>(lane % kStreams)];
  if (!stream) stream = std::make_unique<Stream>(*this, lane);
  return *stream;
}

transport::Request Link::send(int side, transport::Tag tag, base::ConstBytes head,
                              base::ConstBytes body) {
  if (auto fits = transport::check_outgoing(tag, head, body); !fits) {
    return transport::failed_request(fits.error());
  }
  Side& here = at(side);
  if (here.reason) return transport::failed_request(*here.reason);
  auto message = std::allocate_shared<Message>(RecyclingAllocator<Message>(), network_.scheduler(),
                                               tag, head, body);
  here.bytes_sent += message->bytes();
  ++here.messages_sent;
  ++here.under_way;
  post(side, message, network_.occupy_sender(here.rank.value, rank(1 - side).value));
  return transport::Request(std::move(message));
}

/// Cuts the message as the tcp transport does, and lets the streams begin.
void Link::post(int side, const std::shared_ptr<Message>& message, base::TimePoint ready) {
  const int first = side * kStreams;
  const std::uint64_t size = message->body.size();
  constexpr std::uint64_t kStripe = transport::tcp::Options{}.stripe_bytes;
  if (size <= kStripe || network_.capabilities(rank(0).value, rank(1).value).same_host) {
    Stream& only = stream(first);
    only.whole.push_back(std::make_unique<Frame>(message, ready, message->bytes(), true));
    return start(only);
  }
  const std::uint64_t share = (size + kStreams - 1) / kStreams;
  const std::uint64_t chunk = std::min<std::uint64_t>(share, transport::tcp::kMaxChunkBytes);
  message->to_leave = message->to_arrive = static_cast<int>((size + chunk - 1) / chunk);
  std::uint64_t extra = message->head().size();
  for (int i = 0; i < message->to_arrive; ++i) {
    const std::uint64_t begin = static_cast<std::uint64_t>(i) * chunk;
    const std::uint64_t bytes = std::min(chunk, size - begin) + std::exchange(extra, 0);
    stream(first + i % kStreams)
        .chunks.push_back(std::make_unique<Frame>(message, ready, bytes, false));
  }
  for (int s = 0; s < kStreams; ++s) start(stream(first + s));
}

/// What an alarm of a stream is for.
enum : int { kReady, kArrival, kPassed };

void Link::Stream::alarm(int what) {
  if (what == kPassed) {
    link.passed(*this);
  } else if (what == kArrival) {
    link.land(*this);
  } else {
    link.network_.carry(link, lane);
  }
}

void Link::Stream::prepare(int what) const {
  const Frame* first = whole.first();
  if (what == kArrival) {
    first = in_flight.first();
    link.at(1 - side_of(lane)).matcher.prefetch();
  } else if (what == kPassed) {
    first = current.get();
  }
  if (first != nullptr) __builtin_prefetch(first);
}

/// If the stream does nothing and something waits there. It is busy from here on.
void Link::start(Stream& here) {
  if (here.busy || (here.whole.empty() && here.chunks.empty())) return;
  here.busy = true;
  base::TimePoint ready = base::TimePoint::never();
  for (const auto* queue : {&here.whole, &here.chunks}) {
    if (!queue->empty()) ready = std::min(ready, queue->front().ready);
  }
  if (ready > network_.scheduler().now()) {
    network_.scheduler().call_at(ready, here, kReady);
  } else {
    network_.carry(*this, here.lane);
  }
}

/// The next frame that was ready at a time: a whole message, if there was one.
std::unique_ptr<Frame> Link::take(Stream& here, base::TimePoint at) const {
  for (auto* queue : {&here.whole, &here.chunks}) {
    if (!queue->empty() && queue->front().ready <= at) return queue->pop_front();
  }
  return nullptr;
}

/// The next frame to put on the wire, after one that was in the buffer at `choice`.
std::unique_ptr<Frame> Link::next(Stream& here, base::TimePoint choice) const {
  std::unique_ptr<Frame> chosen = take(here, choice);
  return chosen ? std::move(chosen) : take(here, network_.scheduler().now());
}

/// When the rest of the current frame, which is through the wire now, fitted into the socket's
/// buffer: as if it had gone at the same speed all the time.
base::TimePoint Link::buffered(const Stream& here) const {
  const std::uint64_t bytes = here.current->bytes;
  constexpr std::uint64_t kRest = transport::tcp::kUnsentBytes;
  if (bytes <= kRest) return here.begin;  // an empty one, too
  const double share = static_cast<double>(bytes - kRest) / static_cast<double>(bytes);
  const base::Duration took = network_.scheduler().now() - here.begin;
  return here.begin + base::from_seconds(share * base::to_seconds(took));
}

/// What the current frame, if it is a message of its own, will wait at the receiver's port.
void Link::note_queue(Stream& here) {
  here.queued =
      here.current->whole ? network_.queueing(from(here), to(here)) : base::Duration::zero();
}

void Link::carry(int lane) {
  Stream& here = stream(lane);
  base::TimePoint choice = network_.scheduler().now();
  while ((here.current = next(here, choice))) {
    here.begin = network_.scheduler().now();
    const bool lost = network_.loses(from(here), to(here));
    if (!lost) {
      note_queue(here);
      network_.transfer(from(here), to(here), here.current->bytes, !here.current->whole);
    }
    if (!here.current) break;  // the link broke meanwhile
    choice = buffered(here);
    leave(here, lost);
  }
  here.busy = false;
  start(here);
}

/// The current frame is through the wire, or lost on it.
void Link::leave(Stream& here, bool lost) {
  std::unique_ptr<Frame> frame = std::move(here.current);
  if (--frame->message->to_leave == 0) frame->message->finish(nullptr);
  if (lost) {
    if (--frame->message->to_arrive == 0) over(side_of(here.lane));
    return;
  }
  here.in_flight.push_back(std::move(frame));
  const base::TimePoint arrival =
      std::max(here.last_arrival, network_.arrival(from(here), to(here)) + here.queued);
  here.last_arrival = arrival;
  if (arrival > network_.scheduler().now()) {
    network_.scheduler().call_at(arrival, here, kArrival);
  } else {
    land(here);
  }
}

void Link::launch(int lane) { launch(stream(lane), network_.scheduler().now()); }

/// The next frame begins; the choice was made at a time that may be over.
void Link::launch(Stream& here, base::TimePoint choice) {
  while ((here.current = next(here, choice))) {
    here.begin = choice = network_.scheduler().now();
    if (!network_.loses(from(here), to(here))) {
      here.bulk = !here.current->whole;
      note_queue(here);
      return pass(here);
    }
    leave(here, true);
  }
  here.busy = false;
  start(here);
}

void Link::pass(Stream& here) {
  SimScheduler& scheduler = network_.scheduler();
  const std::uint64_t timed =
      network_.begin_transfer(from(here), to(here), here.current->bytes, here.bulk);
  if (const auto takes = network_.local_transfer(from(here), to(here), timed)) {
    return scheduler.call_at(scheduler.now() + *takes, here, kPassed);
  }
  std::vector<Port*>& ports = at(side_of(here.lane)).ports;
  if (ports.empty()) ports = network_.route(from(here), to(here));
  here.enter(timed);
}

/// All ports are done with what the stream had there.
void Link::passed(Stream& here) {
  network_.end_transfer(from(here), to(here), here.bulk, here.begin);
  if (!here.current) {  // the link broke meanwhile
    here.busy = false;
    return;
  }
  const base::TimePoint choice = buffered(here);
  leave(here, false);
  launch(here, choice);
}

void Link::land(Stream& here) {
  if (here.in_flight.empty()) return;  // the link broke meanwhile
  const std::unique_ptr<Frame> frame = here.in_flight.pop_front();
  if (--frame->message->to_arrive == 0) deliver(side_of(here.lane), *frame->message);
}

void Link::deliver(int side, const Message& message) {
  Side& to = at(1 - side);
  const base::Status arrived =
      to.matcher.arrive_whole(message.tag, message.head(), message.body.view());
  if (arrived) {
    to.bytes_arrived += message.bytes();
    ++to.messages_arrived;
  } else if (!to.reason) {
    break_link(1 - side, arrived.error());
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
  for (const auto& stream : here.streams) {
    if (!stream) continue;
    for (auto* frames : {&stream->whole, &stream->chunks, &stream->in_flight}) {
      frames->for_each([&](const Frame& frame) { frame.message->finish(&reason); });
      frames->clear();
    }
    if (stream->current) stream->current->message->finish(&reason);
    stream->current.reset();
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
  const Side& here = sides_[static_cast<std::size_t>(side)];
  return {.bytes_sent = here.bytes_sent,
          .bytes_received = here.bytes_arrived,
          .messages_sent = here.messages_sent,
          .messages_received = here.messages_arrived};
}

}  // namespace gearshift::sim
