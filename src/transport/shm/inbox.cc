#include "transport/shm/inbox.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace gearshift::transport::shm {
namespace {

base::Error protocol_error(const std::string& what) {
  return {base::ErrorCode::kProtocol, "shared-memory ring: " + what};
}

/// Kept with a lent body for as long as a mailbox's reader needs it.
class Loan {
 public:
  Loan(std::shared_ptr<SharedRegion> region, std::function<void(std::uint64_t)> let_go,
       std::uint64_t ticket)
      : region_(std::move(region)), let_go_(std::move(let_go)), ticket_(ticket) {}
  ~Loan() { let_go_(ticket_); }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;

 private:
  const std::shared_ptr<SharedRegion> region_;
  const std::function<void(std::uint64_t)> let_go_;
  const std::uint64_t ticket_;
};

}  // namespace

base::Result<Inbox::Drained> Inbox::drain(std::size_t budget, const std::atomic<bool>& stop) {
  std::size_t total = 0;
  while (total < budget && stage_ != Stage::kEnded && !stop.load(std::memory_order_relaxed)) {
    const auto ready = ring_.readable();
    if (!ready) return protocol_error("the peer's position is impossible");
    GEARSHIFT_ASSIGN_OR_RETURN(const std::size_t taken, step(*ready, stop));
    if (taken == 0) break;
    total += taken;
    ring_.release();
    // Whoever waited for a large message is about to ask for the next one: let it, so that the
    // next needs no memory of its own and no second copy.
    if (stage_ == Stage::kHeader && header_.body_bytes >= kPieceBytes) break;
  }
  if (stage_ == Stage::kEnded) return Drained::kGoodbye;
  return total > 0 ? Drained::kSome : Drained::kNothing;
}

base::Result<std::size_t> Inbox::step(std::size_t ready, const std::atomic<bool>& stop) {
  switch (stage_) {
    case Stage::kHeader:
      if (ready < sizeof header_) return std::size_t{0};
      ring_.take(base::writable_bytes_of(header_));
      count(sizeof header_);
      GEARSHIFT_RETURN_IF_ERROR(begin_frame());
      if (stage_ == Stage::kHead && head_.empty()) GEARSHIFT_RETURN_IF_ERROR(announce(stop));
      return sizeof header_;
    case Stage::kHead: {
      const std::size_t size = std::min(ready, head_.size() - done_);
      ring_.take(base::slice(base::Bytes(head_), done_, size));
      count(size);
      done_ += size;
      if (done_ == head_.size()) GEARSHIFT_RETURN_IF_ERROR(announce(stop));
      return size;
    }
    case Stage::kBody: {
      const std::size_t size = std::min({ready, landing_->into.size() - done_, kPieceBytes});
      ring_.take(base::slice(landing_->into, done_, size));
      count(size);
      done_ += size;
      if (done_ == landing_->into.size()) finish();
      return size;
    }
    case Stage::kEnded:
      break;
  }
  return std::size_t{0};
}

base::Status Inbox::begin_frame() {
  using Kind = FrameHeader::Kind;
  const Kind kind = header_.kind;
  if (header_.magic != FrameHeader::kMagic || kind < Kind::kMessage || kind > Kind::kReclaimed) {
    return protocol_error("a frame without a header");
  }
  if (header_.head_bytes > kMaxHeadBytes || header_.body_bytes > kMaxBodyBytes) {
    return protocol_error("an oversized frame, head " + std::to_string(header_.head_bytes) +
                          ", body " + std::to_string(header_.body_bytes) + " bytes");
  }
  switch (kind) {
    case Kind::kGoodbye:
      stage_ = Stage::kEnded;
      return {};
    case Kind::kReturned:
    case Kind::kMapped:
      received_.emplace_back(kind, header_.tag);
      return {};
    case Kind::kReclaimed:
      borrowed_.forget(header_.tag);
      return {};
    case Kind::kMessage:
    case Kind::kLent:
      break;
  }
  done_ = 0;
  head_.resize(header_.head_bytes + (kind == Kind::kLent ? sizeof(LentBody) : 0));
  stage_ = Stage::kHead;
  return {};
}

base::Status Inbox::announce(const std::atomic<bool>& stop) {
  if (header_.kind == FrameHeader::Kind::kLent) return announce_lent(stop);
  Tag tag;
  tag.value = header_.tag;
  tag.check = header_.check;
  GEARSHIFT_ASSIGN_OR_RETURN(landing_, matcher_.arrive(tag, head_, header_.body_bytes));
  done_ = 0;
  stage_ = Stage::kBody;
  if (header_.body_bytes == 0) finish();
  return {};
}

base::Status Inbox::announce_lent(const std::atomic<bool>& stop) {
  Tag tag;
  tag.value = header_.tag;
  tag.check = header_.check;
  LentBody place;
  std::memcpy(&place, head_.data() + header_.head_bytes, sizeof place);
  head_.resize(header_.head_bytes);
  GEARSHIFT_ASSIGN_OR_RETURN(BorrowedRegions::Found lent,
                             borrowed_.find(place, header_.body_bytes));
  count(lent.body.size());
  stage_ = Stage::kHeader;
  if (is_service(tag)) {
    messages_.fetch_add(1, std::memory_order_relaxed);
    const base::Bytes memory = base::slice(lent.region->view(), place.offset, lent.body.size());
    auto loan = std::make_shared<Loan>(std::move(lent.region), let_go_, place.ticket);
    return matcher_.deliver(tag, head_, base::Buffer::borrow(memory, std::move(loan)));
  }
  GEARSHIFT_ASSIGN_OR_RETURN(landing_, matcher_.arrive(tag, head_, lent.body.size()));
  for (done_ = 0; done_ < lent.body.size() && !stop.load(std::memory_order_relaxed);) {
    const std::size_t size = std::min(lent.body.size() - done_, kPieceBytes);
    std::memcpy(landing_->into.data() + done_, lent.body.data() + done_, size);
    done_ += size;
  }
  // A link that broke meanwhile has nothing to complete: the receive fails.
  if (done_ < lent.body.size()) return {};
  finish();
  answers_.emplace_back(FrameHeader::Kind::kReturned, place.ticket);
  return {};
}

void Inbox::finish() {
  // Counted first: whoever sees the message sees it counted.
  messages_.fetch_add(1, std::memory_order_relaxed);
  matcher_.complete(landing_);
  landing_.reset();
  stage_ = Stage::kHeader;
}

}  // namespace gearshift::transport::shm
