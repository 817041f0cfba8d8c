#include "transport/shm/acceptor.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <system_error>

#include "gearshift/base/threads.h"

namespace gearshift::transport::shm {
namespace {

using base::Error;
using base::ErrorCode;

constexpr std::size_t kMaxGuests = 256;
/// Callers that are served before the links of this process have their turn again.
constexpr int kTurns = 64;

base::Fd open_spare() { return base::Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

/// Whether the process at the other end has gone: one that gave up may try again.
bool has_ended(int socket) {
  char byte = 0;
  return ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

}  // namespace

Acceptor::Acceptor(base::Scheduler& scheduler, Identity identity, base::Fd listener)
    : scheduler_(scheduler),
      identity_(std::move(identity)),
      listener_(std::move(listener)),
      spare_(open_spare()),
      refusals_(scheduler),
      monitor_(scheduler.make_monitor()) {}

Acceptor::~Acceptor() {
  stop();
  for (Guest& guest : guests_) guest.task->join();
}

void Acceptor::stop() {
  std::lock_guard<base::Monitor> lock(*monitor_);
  closing_ = true;
  threadless_.reset();
  ::shutdown(listener_.get(), SHUT_RDWR);
  for (const Guest& guest : guests_) {
    if (guest.socket >= 0) ::shutdown(guest.socket, SHUT_RDWR);
  }
}

bool Acceptor::on_ready() {
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (threadless_ && !welcome(std::move(threadless_))) return false;
  }
  for (int turn = 0; turn < kTurns; ++turn) {
    base::Fd socket = accept_one(listener_.get());
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE) return turn_one_away();
      return errno != ENOBUFS && errno != ENOMEM;
    }
    // Before it takes a place: anybody on this host may call, as often as they like.
    if (const base::Status same = check_user(socket.get()); !same) {
      refusals_.log(base::LogLevel::kWarn, "shm", "refused a connection: " + same.error().message);
      continue;
    }
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (closing_) return true;
    forget_finished();
    if (guests_.size() >= kMaxGuests) {
      refusals_.log(base::LogLevel::kWarn, "shm",
                    "refused a connection: too many in their handshake");
      continue;
    }
    thread_deadline_ = scheduler_.after(base::kThreadPatience);
    if (!welcome(std::move(socket))) return false;
  }
  return true;
}

/// Caller holds the monitor. Without a thread, the guest waits for one: false then.
bool Acceptor::welcome(base::Fd socket) {
  guests_.emplace_back();
  Guest* guest = &guests_.back();
  guest->socket = socket.get();
  const auto held = std::make_shared<base::Fd>(std::move(socket));
  try {
    guest->task =
        scheduler_.spawn("gs-shm-accept", [this, guest, held] { admit(std::move(*held), guest); });
    return true;
  } catch (const std::system_error& error) {
    guests_.pop_back();
    if (scheduler_.now() < thread_deadline_) {
      threadless_ = std::move(*held);
      return false;
    }
    refusals_.log(base::LogLevel::kWarn, "shm",
                  std::string("refused a connection: no thread for it: ") + error.what());
    return true;
  }
}

/// One that stays in the queue would wake the reader for ever.
bool Acceptor::turn_one_away() {
  refusals_.log(base::LogLevel::kWarn, "shm", "refused a connection: " + no_descriptors().message);
  spare_.reset();
  const bool done = static_cast<bool>(accept_one(listener_.get())) || errno == EAGAIN;
  spare_ = open_spare();
  return done;
}

void Acceptor::forget_finished() {
  guests_.remove_if([](const Guest& guest) { return guest.socket < 0; });
}

void Acceptor::admit(base::Fd socket, Guest* guest) {
  auto parts = accept_link(scheduler_, identity_, socket.get(), scheduler_.after(kPatience));
  if (!parts) {
    refusals_.log(base::LogLevel::kWarn, "shm",
                  "refused a connection: " + parts.error().to_string());
  }
  std::lock_guard<base::Monitor> lock(*monitor_);
  guest->socket = -1;  // before the descriptor is closed, and its number used for something else
  if (!parts || closing_) return;
  ControlRecord answer;
  answer.kind = ControlRecord::Kind::kReady;
  if (is_known(parts->peer)) {
    answer.kind = ControlRecord::Kind::kAbort;
    answer.set_text("rank " + std::to_string(parts->peer.value) + " is connected already");
    refusals_.log(base::LogLevel::kWarn, "shm", "refused a connection: " + answer.get_text());
  }
  if (send_record(socket.get(), answer) != SendOutcome::kSent ||
      answer.kind != ControlRecord::Kind::kReady) {
    return;
  }
  parts->socket = std::move(socket);
  parts->alive = std::make_shared<std::atomic<bool>>(true);
  const base::Rank peer = parts->peer;
  admitted_.insert_or_assign(peer, std::move(*parts));
  monitor_->notify_all();
}

bool Acceptor::is_known(base::Rank rank) {
  const auto waiting = admitted_.find(rank);
  if (waiting != admitted_.end() && !has_ended(waiting->second.socket.get())) return true;
  const auto taken = taken_.find(rank);
  return taken != taken_.end() && taken->second->load();
}

base::Result<LinkParts> Acceptor::take(base::Rank peer, base::TimePoint deadline) {
  std::lock_guard<base::Monitor> lock(*monitor_);
  for (;;) {
    if (const auto found = admitted_.find(peer); found != admitted_.end()) {
      LinkParts parts = std::move(found->second);
      admitted_.erase(found);
      // Even if the peer has gone since: what it sent is still there, and its loss is news.
      taken_[peer] = parts.alive;
      return parts;
    }
    if (!monitor_->wait_until(deadline) && !admitted_.contains(peer)) {
      return Error(ErrorCode::kTimeout,
                   "rank " + std::to_string(peer.value) +
                       " did not connect over shared memory before the deadline",
                   peer.value);
    }
  }
}

}  // namespace gearshift::transport::shm
