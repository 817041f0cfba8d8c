// The socket of a link: shared regions, and how the link ends.

#include <fcntl.h>

#include <cerrno>
#include <system_error>

#include "transport/shm/link.h"

namespace gearshift::transport::shm {
namespace {

using base::Error;
using base::ErrorCode;

/// A peer that offers more regions than this without anybody accepting them is broken.
constexpr std::size_t kMaxRegions = 4096;

}  // namespace

base::Status Link::offer_region(std::uint64_t id, const SharedRegion& region) {
  return send_region(ControlRecord::Kind::kRegion, id, region);
}

base::Status Link::send_region(ControlRecord::Kind kind, std::uint64_t id,
                               const SharedRegion& region) {
  ControlRecord record;
  record.kind = kind;
  record.id = id;
  record.size = region.size();
  std::lock_guard<base::Monitor> lock(*state_);
  if (reason_) return *reason_;
  if (control_queue_.empty()) {
    const SendOutcome outcome = send_record(socket_.get(), record, region.fd());
    if (outcome == SendOutcome::kSent) return {};
    if (outcome == SendOutcome::kBroken) {
      return about_peer(ErrorCode::kPeerLost, "cannot be offered a shared region");
    }
  }
  // The caller may destroy its region before there is room again.
  base::Fd copy(::fcntl(region.fd(), F_DUPFD_CLOEXEC, 0));
  if (!copy) {
    return Error(ErrorCode::kIo, "cannot keep a shared region's descriptor: " +
                                     std::system_category().message(errno));
  }
  control_queue_.emplace_back(record, std::move(copy));
  wake_();
  return {};
}

bool Link::flush_control() {
  std::lock_guard<base::Monitor> lock(*state_);
  while (!control_queue_.empty() && !reason_) {
    const auto& [record, fd] = control_queue_.front();
    const SendOutcome outcome = send_record(socket_.get(), record, fd.get());
    if (outcome == SendOutcome::kFull) return true;
    control_queue_.pop_front();  // a broken socket is noticed where it is read
  }
  control_queue_.clear();
  return false;
}

base::Result<std::unique_ptr<SharedRegion>> Link::accept_region(std::uint64_t id,
                                                                base::TimePoint deadline) {
  std::lock_guard<base::Monitor> lock(*state_);
  for (;;) {
    if (auto found = regions_.find(id); found != regions_.end()) {
      std::unique_ptr<SharedRegion> region = std::move(found->second);
      regions_.erase(found);
      return region;
    }
    if (reason_) return *reason_;
    if (!state_->wait_until(deadline) && !regions_.contains(id) && !reason_) {
      return about_peer(ErrorCode::kTimeout,
                        "offered no shared region " + std::to_string(id) + " in time");
    }
  }
}

void Link::on_socket() {
  for (;;) {
    Received received = receive_record(socket_.get());
    if (received.garbage) {
      return give_up(about_peer(ErrorCode::kProtocol, "sent garbage over the control socket"));
    }
    if (received.lost_fd) return give_up(no_descriptors());
    if (received.ended) on_end();
    if (!received.record) return;
    on_record(std::move(received));
  }
}

void Link::on_record(Received received) {
  switch (received.record->kind) {
    case ControlRecord::Kind::kBell:
      return;
    case ControlRecord::Kind::kRegion:
      return keep_region(std::move(received));
    case ControlRecord::Kind::kLend:
      return borrow_region(std::move(received));
    case ControlRecord::Kind::kAbort: {
      std::lock_guard<base::Monitor> lock(*state_);
      last_words_ = received.record->get_text();
      return;
    }
    default:
      give_up(about_peer(ErrorCode::kProtocol, "sent an unknown control record"));
  }
}

void Link::keep_region(Received received) {
  const std::uint64_t id = received.record->id;
  if (!received.fd) {
    return give_up(about_peer(ErrorCode::kProtocol, "offered a shared region without memory"));
  }
  auto region = SharedRegion::map(std::move(received.fd), received.record->size);
  if (!region && region.error().code == ErrorCode::kIo) {  // no fault of the peer
    return give_up(region.error().within("a region of " + std::to_string(received.record->size) +
                                         " bytes from rank " + std::to_string(peer_.value)));
  }
  if (!region) {
    return give_up(about_peer(region.error().code,
                              "offered what is no shared region: " + region.error().message));
  }
  {
    std::lock_guard<base::Monitor> lock(*state_);
    if (regions_.size() < kMaxRegions && regions_.try_emplace(id, std::move(*region)).second) {
      state_->notify_all();
      return;
    }
  }
  give_up(about_peer(ErrorCode::kProtocol,
                     "offered region " + std::to_string(id) + " twice, or too many"));
}

base::Result<Inbox::Drained> Link::drain_rest() {
  base::Result<Inbox::Drained> drained = Inbox::Drained::kSome;
  while (drained && *drained == Inbox::Drained::kSome && !broken()) {
    std::unique_lock<std::mutex> lock(receive_);
    drained = drain(reader_.capacity(), lock);
  }
  return drained;
}

void Link::on_end() {
  if (broken()) return;
  // What a dead process wrote is still in the ring, and so is its good-bye, if it said one.
  const auto drained = drain_rest();
  if (!drained) return break_link(drained.error(), Loss::kReport);
  if (*drained == Inbox::Drained::kGoodbye) {
    return break_link(about_peer(ErrorCode::kClosed, "closed the connection"), Loss::kSilent);
  }
  // A peer that has read our good-bye may leave before this process has got any further.
  if (closing_ && !outbox_.pending()) return break_link(closed_here(), Loss::kSilent);
  std::string words;
  {
    std::lock_guard<base::Monitor> lock(*state_);
    words = last_words_;
  }
  break_link(about_peer(ErrorCode::kPeerLost,
                        words.empty() ? "died or was disconnected" : "broke the link: " + words),
             Loss::kReport);
}

}  // namespace gearshift::transport::shm
