// Bodies that the peer reads where they are.
//
// A region goes to the peer over the socket; once it is mapped there, the ring says so (kMapped),
// and until then bodies are copied. A lent message names a place in it and carries a ticket, which
// the peer returns when it needs the body no more: at once when a receive was posted, or when the
// reader of the mailbox drops the message. The region is taken back over the ring, behind the last
// message in it.

#include "transport/shm/link.h"

namespace gearshift::transport::shm {
namespace {

class Lending final : public LentRegion {
 public:
  Lending(std::weak_ptr<Link> link, std::uint64_t id) : link_(std::move(link)), id_(id) {}
  ~Lending() override {
    if (const auto link = link_.lock()) link->reclaim(id_);
  }

 private:
  const std::weak_ptr<Link> link_;
  const std::uint64_t id_;
};

}  // namespace

base::Status QueuedSend::wait(base::TimePoint deadline) {
  return link_->wait_sent(progress_, deadline);
}

void Link::begin() {
  inbox_.on_let_go([weak = weak_from_this()](std::uint64_t ticket) {
    if (const auto link = weak.lock()) link->say(FrameHeader::Kind::kReturned, ticket);
  });
}

base::Result<std::unique_ptr<LentRegion>> Link::lend(const SharedRegion& region) {
  std::uint64_t id = 0;
  {
    std::lock_guard<std::mutex> lock(send_);
    id = lent_.add(region.view());
  }
  auto handle = std::make_unique<Lending>(weak_from_this(), id);
  GEARSHIFT_RETURN_IF_ERROR(send_region(ControlRecord::Kind::kLend, id, region));
  return std::unique_ptr<LentRegion>(std::move(handle));
}

void Link::reclaim(std::uint64_t region) {
  {
    std::lock_guard<std::mutex> lock(send_);
    lent_.remove(region);
  }
  say(FrameHeader::Kind::kReclaimed, region);
}

/// Sends a frame that is only a number.
void Link::say(FrameHeader::Kind kind, std::uint64_t number) {
  bool finished = false;
  {
    std::lock_guard<std::mutex> lock(send_);
    if (broken() || closing_) return;
    outbox_.add_notice(kind, number);
    finished = outbox_.take_finished();
  }
  after_adding(finished);
}

void Link::after_adding(bool finished) {
  if (writer_.take_sleeper()) ring_bell();
  if (finished) notify_waiters();
  if (outbox_.pending()) arm_outbox();
}

base::Result<Inbox::Drained> Link::drain(std::size_t budget, std::unique_lock<std::mutex>& lock) {
  const auto drained = inbox_.drain(budget, broken_);
  const Inbox::Notices received = inbox_.take_received();
  const Inbox::Notices answers = inbox_.take_answers();
  lock.unlock();
  on_notices(received, answers);
  return drained;
}

void Link::on_notices(const Inbox::Notices& received, const Inbox::Notices& answers) {
  if (!received.empty()) {
    bool finished = false;
    {
      std::lock_guard<std::mutex> lock(send_);
      for (const auto& [kind, number] : received) {
        if (kind == FrameHeader::Kind::kMapped) {
          lent_.confirm(number);
        } else {
          outbox_.returned(number);
        }
      }
      finished = outbox_.take_finished();
    }
    if (finished) notify_waiters();
  }
  for (const auto& [kind, number] : answers) say(kind, number);
}

void Link::borrow_region(Received received) {
  const std::uint64_t id = received.record->id;
  auto region = SharedRegion::map(std::move(received.fd), received.record->size);
  // It is not mapped for want of memory, maybe: nothing is lost but the saving.
  if (!region) return;
  base::Result<bool> wanted = false;
  {
    std::lock_guard<std::mutex> lock(receive_);
    wanted = inbox_.borrow(id, std::move(*region));
  }
  if (!wanted) return give_up(about_peer(wanted.error().code, wanted.error().message));
  if (*wanted) say(FrameHeader::Kind::kMapped, id);
}

}  // namespace gearshift::transport::shm
