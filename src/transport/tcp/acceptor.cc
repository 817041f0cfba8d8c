#include "transport/tcp/acceptor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <mutex>
#include <system_error>

#include "gearshift/base/threads.h"

namespace gearshift::transport::tcp {

using base::Error;
using base::ErrorCode;
using base::Fd;
using base::Status;
using base::TimePoint;

namespace {

Fd open_spare() { return Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

Acceptor::Acceptor(base::Scheduler& scheduler, Identity identity, Fd listener,
                   std::shared_ptr<Reactor> reactor, LinkKeeper& keeper)
    : scheduler_(scheduler),
      identity_(std::move(identity)),
      listener_(std::move(listener)),
      reactor_(std::move(reactor)),
      id_(reactor_->reserve()),
      keeper_(keeper),
      spare_(open_spare()),
      refusals_(scheduler),
      monitor_(scheduler.make_monitor()) {}

Status Acceptor::start() { return reactor_->add(id_, listener_, EPOLLIN, shared_from_this()); }

void Acceptor::stop() {
  reactor_->remove(id_, listener_);
  std::list<std::unique_ptr<Visit>> leaving;
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    stopping_ = true;
    for (const auto& visit : visits_) {
      if (visit->fd) ::shutdown(visit->fd.get(), SHUT_RDWR);
    }
    monitor_->notify_all();
    leaving.swap(visits_);
    threadless_.reset();
  }
  leaving.clear();  // joins
  parties_.clear();
}

void Acceptor::on_events(std::uint32_t) {
  reap();
  for (;;) {
    {
      std::lock_guard<base::Monitor> lock(*monitor_);
      if (stopping_) return;
      if (strangers_ >= kMaxStrangers || threadless_) {
        reactor_->modify(id_, listener_, 0);  // until one has left, or there is a thread
        return;
      }
    }
    auto fd = accept_from(listener_);
    if (!fd) {
      refusals_.log(base::LogLevel::kWarn, "transport",
                    "tcp: turned a caller away: " + fd.error().message);
      if (turn_away()) return;
      // One that stays in the queue would wake the reactor for ever.
      reactor_->modify(id_, listener_, 0);
      reactor_->call_after(id_, kRest);
      return;
    }
    if (!*fd) return;
    if (!welcome(*std::move(fd))) return;
  }
}

void Acceptor::on_alarm() {
  std::lock_guard<base::Monitor> lock(*monitor_);
  if (stopping_) return;
  if (threadless_ && !greet(std::move(threadless_))) return;
  if (strangers_ < kMaxStrangers) reactor_->modify(id_, listener_, EPOLLIN);
}

/// False when that, too, needs what this process, or the system, lacks.
bool Acceptor::turn_away() {
  spare_.reset();
  const bool done = accept_from(listener_).ok();
  spare_ = open_spare();
  return done;
}

/// Forgets visits that have ended.
void Acceptor::reap() {
  std::list<std::unique_ptr<Visit>> ended;
  std::lock_guard<base::Monitor> lock(*monitor_);
  for (auto next = visits_.begin(); next != visits_.end();) {
    auto visit = next++;
    if ((*visit)->done) ended.splice(ended.end(), visits_, visit);
  }
}

/// False when nobody else is to be let in now.
bool Acceptor::welcome(Fd fd) {
  auto visit = std::make_unique<Visit>();
  visit->from = remote_address(fd);
  visit->fd = std::move(fd);
  std::lock_guard<base::Monitor> lock(*monitor_);
  if (stopping_) return false;
  thread_deadline_ = scheduler_.after(base::kThreadPatience);
  return greet(std::move(visit));
}

/// Caller holds the monitor. Without a thread, the caller waits for one, and the door is closed
/// meanwhile; the reactor has links to serve. False then.
bool Acceptor::greet(std::unique_ptr<Visit> visit) {
  Visit& guest = *visit;
  ++strangers_;
  visits_.push_back(std::move(visit));
  try {
    guest.task = scheduler_.spawn("gs-tcp-greet", [this, &guest] { run(guest); });
    return true;
  } catch (const std::system_error& error) {
    --strangers_;
    visit = std::move(visits_.back());
    visits_.pop_back();
    if (scheduler_.now() < thread_deadline_) {
      threadless_ = std::move(visit);
      reactor_->modify(id_, listener_, 0);
      reactor_->call_after(id_, kRest);
      return false;
    }
    refusals_.log(base::LogLevel::kWarn, "transport",
                  "tcp: no thread for " + visit->from + ": " + error.what());
    return true;
  }
}

void Acceptor::run(Visit& visit) {
  const Status examined = examine(visit);
  std::lock_guard<base::Monitor> lock(*monitor_);
  if (!examined && !stopping_) {
    refusals_.log(base::LogLevel::kWarn, "transport",
                  "tcp: refused " + visit.from + ": " + examined.error().message);
  }
  visit.fd.reset();
  no_longer_strange(visit);
  visit.done = true;
}

void Acceptor::no_longer_strange(Visit& visit) {
  if (visit.proved) return;
  visit.proved = true;
  if (strangers_-- == kMaxStrangers && !stopping_) reactor_->modify(id_, listener_, EPOLLIN);
}

Status Acceptor::examine(Visit& visit) {
  const TimePoint deadline = scheduler_.after(kPatience);
  SocketStream stream(scheduler_, visit.fd);
  const Hello mine{
      .purpose = kPurposeLink, .generation = identity_.generation, .rank = identity_.rank};
  GEARSHIFT_ASSIGN_OR_RETURN(const Hello hello,
                             handshake_as_server(stream, mine, identity_.token, deadline));
  LinkSetup setup;
  GEARSHIFT_RETURN_IF_ERROR(stream.read_exact(base::writable_bytes_of(setup), deadline));
  if (hello.rank == identity_.rank) return refuse(visit.fd, Verdict::kSameRank, deadline);
  if (hello.rank.value < 0 || setup.streams > LinkSetup::kMaxStreams ||
      hello.stream >= setup.streams) {
    return refuse(visit.fd, Verdict::kInvalid, deadline);
  }
  return join_party(visit, hello, setup.streams, deadline);
}

Status Acceptor::refuse(const Fd& fd, Verdict verdict, TimePoint deadline) {
  (void)SocketStream(scheduler_, fd).write_all(base::bytes_of(verdict), deadline);
  return Error(ErrorCode::kMismatch, explain(verdict));
}

/// The last socket of a link brings it before the keeper; the others wait for that.
Status Acceptor::join_party(Visit& visit, const Hello& hello, std::uint32_t streams,
                            TimePoint deadline) {
  const LinkName name(hello.rank, hello.link);
  std::vector<Fd> complete;
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    no_longer_strange(visit);
    Party& party = parties_[name];
    if (party.present == 0) party.sockets.resize(streams);
    if (party.sockets.size() != streams || party.sockets[hello.stream]) {
      return Error(ErrorCode::kMismatch, explain(Verdict::kInvalid));
    }
    party.sockets[hello.stream] = std::move(visit.fd);
    if (++party.present == streams) {
      complete = std::move(party.sockets);
      parties_.erase(name);
      monitor_->notify_all();
    } else {
      while (!stopping_ && parties_.contains(name)) {
        if (monitor_->wait_until(deadline) || parties_.erase(name) == 0) continue;
        monitor_->notify_all();
        return Error(ErrorCode::kTimeout, "the other streams of its link did not come");
      }
      return {};
    }
  }
  return decide(hello.rank, std::move(complete), deadline);
}

Status Acceptor::decide(base::Rank peer, std::vector<Fd> sockets, TimePoint deadline) {
  if (!keeper_.reserve(peer)) {
    Status refused;
    for (const Fd& fd : sockets) refused = refuse(fd, Verdict::kDuplicate, deadline);
    return refused;
  }
  const Verdict accepted = Verdict::kAccepted;
  for (const Fd& fd : sockets) {
    const Status told = SocketStream(scheduler_, fd).write_all(base::bytes_of(accepted), deadline);
    if (told) continue;
    keeper_.cancel(peer);
    return told;
  }
  keeper_.add(peer, std::move(sockets));
  return {};
}

}  // namespace gearshift::transport::tcp
