#include "transport/tcp/link.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>

#include "gearshift/transport/requests.h"

namespace gearshift::transport::tcp {

using base::Error;
using base::ErrorCode;
using base::Fd;
using base::Status;

namespace {

constexpr std::uint32_t kHungUp = EPOLLRDHUP;
constexpr std::uint32_t kEnd = kHungUp | EPOLLHUP | EPOLLERR;

Error no_phantoms() {
  return {ErrorCode::kInvalidArgument, "tcp moves real bytes: a view without memory was given"};
}

}  // namespace

Link::Stream::Stream(Link& owner, std::size_t index, Fd socket)
    : link(owner),
      fd(std::move(socket)),
      id(owner.reactor_->reserve()),
      in(index, fd, owner.arrivals_, *owner.traffic_),
      out(fd, *owner.traffic_),
      pace(*owner.options_.meter) {
  out.on_armed([this](bool wanted) { await_room(wanted); });
}

void Link::Stream::await_room(bool wanted) {
  std::lock_guard<std::mutex> lock(mutex_);
  room_ = wanted;
  modify();
}

void Link::Stream::await_data(bool wanted) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (wanted == data_) return;
  data_ = wanted;
  modify();
}

void Link::Stream::modify() const {
  link.reactor_->modify(id, fd, kHungUp | (data_ ? EPOLLIN : 0U) | (room_ ? EPOLLOUT : 0U));
}

Link::Link(LinkOptions options, std::shared_ptr<Reactor> reactor)
    : options_(std::move(options)),
      reactor_(std::move(reactor)),
      matcher_(*options_.router, options_.peer),
      arrivals_(matcher_, *traffic_),
      closing_monitor_(options_.router->scheduler().make_monitor()) {}

std::shared_ptr<Link> Link::make(LinkOptions options, std::shared_ptr<Reactor> reactor,
                                 std::vector<Fd> sockets) {
  std::shared_ptr<Link> link(new Link(std::move(options), std::move(reactor)));
  link->arrivals_.expect_streams(sockets.size());
  for (Fd& fd : sockets) {
    link->streams_.push_back(std::make_unique<Stream>(*link, link->streams_.size(), std::move(fd)));
  }
  std::weak_ptr<Link> weak = link;
  link->matcher_.on_stuck([weak](const Error& error) {
    if (auto self = weak.lock()) self->finish(error, News::kReport);
  });
  link->matcher_.follow([traffic = link->traffic_] { return traffic->moved(); });
  link->matcher_.pull_by(link);
  link->sends_ = std::make_shared<SendShared>(link->options_.router->scheduler(), link->traffic_,
                                              [weak](SendState& state, const Error& error) {
                                                if (auto self = weak.lock())
                                                  self->withdraw(state, error);
                                              });
  return link;
}

Link::~Link() { finish({ErrorCode::kClosed, "the connection was destroyed"}, News::kKeep); }

void Link::start() {
  for (const auto& stream : streams_) {
    // The reactor's reference to a stream is one to the whole link.
    const Status added =
        reactor_->add(stream->id, stream->fd, kHungUp | EPOLLIN,
                      std::shared_ptr<Reactor::Handler>(shared_from_this(), stream.get()));
    if (!added) finish(added.error(), News::kReport);
  }
  // A peer that breaks off at once may have ended the link while streams were still being added.
  if (!ended()) return;
  for (const auto& stream : streams_) reactor_->remove(stream->id, stream->fd);
}

Request Link::send(Tag tag, base::ConstBytes head, base::ConstBytes body) {
  if (auto fits = check_outgoing(tag, head, body); !fits) return failed_request(fits.error());
  if (base::is_phantom(head) || base::is_phantom(body)) return failed_request(no_phantoms());
  Frame frame;
  frame.tag = tag.value;
  frame.check = tag.check;
  frame.head_bytes = static_cast<std::uint32_t>(head.size());
  frame.body_bytes = body.size();
  if (body.size() <= options_.stripe_bytes) {
    auto state = std::make_shared<SendState>(sends_, 1);
    post(*streams_[0], {.frame = frame, .head = head, .body = body, .state = state});
    return Request(std::move(state));
  }
  const std::uint64_t share = (body.size() + streams_.size() - 1) / streams_.size();
  frame.kind = FrameKind::kChunk;
  frame.chunk_bytes = static_cast<std::uint32_t>(std::min<std::uint64_t>(share, kMaxChunkBytes));
  frame.message = next_message_.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t count = frame.chunk_count();
  auto state = std::make_shared<SendState>(sends_, count);
  send_chunks(frame, head, body, state, count);
  return Request(std::move(state));
}

void Link::send_chunks(const Frame& whole, base::ConstBytes head, base::ConstBytes body,
                       const std::shared_ptr<SendState>& state, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    Outgoing out{.frame = whole, .state = state};
    out.frame.chunk = static_cast<std::uint32_t>(i);
    out.body = body.subspan(out.frame.part_offset(), out.frame.part_bytes());
    if (i == 0) {
      out.head = head;
    } else {
      out.frame.head_bytes = 0;
    }
    post(*streams_[i % streams_.size()], std::move(out));
  }
}

void Link::post(Stream& stream, Outgoing out) {
  const std::shared_ptr<SendState> state = out.state;
  if (!stream.out.post(std::move(out))) state->part_done(reason());
}

Error Link::reason() {
  std::lock_guard<std::mutex> lock(receiving_);
  return reason_.value_or(Error(ErrorCode::kClosed, "this process closed the connection"));
}

Request Link::recv(Tag tag, base::Bytes into) {
  if (base::is_phantom(into)) return failed_request(no_phantoms());
  return matcher_.post(tag, into);
}

void Link::withdraw(SendState& state, const Error& error) {
  for (const auto& stream : streams_) stream->out.withdraw(state, error);
  // With a part of it gone, the peer would wait for the rest.
  if (state.begun) {
    finish({error.code, peer_name() + ": " + error.message, options_.peer.value}, News::kReport);
  }
}

void Link::on_events(Stream& stream, std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) stream.out.on_writable();
  if (events != EPOLLOUT) {
    settle(receive(stream, (events & kEnd) != 0));
  } else {
    finish_if_over();
  }
}

void Link::settle(const Status& received) {
  if (received.ok()) return finish_if_over();
  const Error& error = received.error();
  if (error.code == ErrorCode::kIo) return finish(error, News::kReport);  // no fault of the peer
  finish({error.code, peer_name() + ": " + error.message, options_.peer.value}, News::kReport);
}

/// On the reactor's task.
Status Link::receive(Stream& stream, bool hung_up) {
  std::lock_guard<std::mutex> lock(receiving_);
  const bool lent = is_lent(stream);
  if (ended_ || (lent && !hung_up)) return {};
  const Status status = read(stream);
  if (status.ok() && !stream.in.ended() && !lent) schedule_read(stream);
  return status;
}

/// Caller holds `receiving_`.
Status Link::read(Stream& stream) {
  const std::uint64_t delivered = arrivals_.delivered();
  const Status status = stream.in.read();
  if (arrivals_.delivered() > delivered) loan_.pause(options_.router->scheduler().now());
  // An ended stream stays readable for ever; the others may still have to be read.
  if (stream.in.ended()) reactor_->remove(stream.id, stream.fd);
  // A peer that has heard our good-byes may hang up without one.
  const bool orderly = status.ok() || (closing_ && status.error().code == ErrorCode::kPeerLost);
  return orderly ? Status() : status;
}

/// When the stream is read again, after a read: when its socket says so, or some time later.
void Link::schedule_read(Stream& stream) {
  // A peer that may not send more waits for what gathers to be acknowledged.
  const bool may_rest = stream.in.drained() && !limited_;
  const std::uint64_t missing = may_rest ? stream.in.missing(ReadPace::kLongPart) : 0;
  const base::Duration rest =
      stream.pace.after_read(stream.in.taken(), missing, options_.router->scheduler().now());
  stream.await_data(rest == base::Duration::zero());
  if (rest > base::Duration::zero()) reactor_->call_after(stream.id, rest);
}

void Link::finish_if_over() {
  bool over = true;
  bool hung_up = true;
  {
    std::lock_guard<std::mutex> lock(receiving_);
    for (const auto& stream : streams_) {
      over = over && (stream->in.over() || stream->in.ended());
      hung_up = hung_up && stream->in.ended();
    }
  }
  if (!over) return;
  if (closing_) {
    const bool drained = std::all_of(streams_.begin(), streams_.end(),
                                     [](const auto& stream) { return stream->out.drained(); });
    if (!drained && !hung_up) return;
    finish({ErrorCode::kClosed, "this process closed the connection"}, News::kKeep);
  } else {
    finish({ErrorCode::kClosed, peer_name() + " closed the connection", options_.peer.value},
           News::kKeep);
  }
}

void Link::finish(const Error& reason, News news) {
  {
    std::lock_guard<std::mutex> lock(receiving_);
    if (ended_) return;
    ended_.store(true, std::memory_order_release);
    reason_ = reason;
  }
  std::vector<Outgoing> unfinished;
  for (const auto& stream : streams_) {
    for (Outgoing& out : stream->out.stop()) unfinished.push_back(std::move(out));
    reactor_->remove(stream->id, stream->fd);
    ::shutdown(stream->fd.get(), SHUT_RDWR);
  }
  // Only now, with all streams stopped: whoever waits may free the memory.
  for (const Outgoing& out : unfinished) {
    if (out.state) out.state->part_done(reason);
  }
  matcher_.fail(reason);
  {
    std::lock_guard<base::Monitor> lock(*closing_monitor_);
    torn_down_ = true;
    closing_monitor_->notify_all();
  }
  if (news == News::kReport) options_.router->report_lost(options_.peer, reason);
}

void Link::limit_flow(const FlowLimit& limit) {
  std::lock_guard<std::mutex> lock(limiting_);
  const bool ends = limit.out == 0 && limit.in == 0;
  limits_ = ends ? std::max(0, limits_ - 1) : limits_ + 1;
  if (ends && limits_ > 0) return;
  limited_ = limit.in > 0;
  const std::size_t each =
      limit.out == 0 ? 0 : std::max<std::size_t>(1, limit.out / streams_.size());
  for (const auto& stream : streams_) limit_outflow(stream->fd, each);
}

void Link::close(base::TimePoint deadline) {
  closing_ = true;
  stop_pulling();
  for (const auto& stream : streams_) stream->out.say_bye();
  finish_if_over();
  {
    std::lock_guard<base::Monitor> lock(*closing_monitor_);
    while (!torn_down_ && closing_monitor_->wait_until(deadline)) {
    }
  }
  finish({ErrorCode::kClosed, "this process closed the connection"}, News::kKeep);
}

TcpConnection::~TcpConnection() {
  link_->abort({ErrorCode::kClosed, "the connection was destroyed"});
}

}  // namespace gearshift::transport::tcp
