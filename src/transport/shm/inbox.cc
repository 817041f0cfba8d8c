#include "transport/shm/inbox.h"

#include <algorithm>
#include <string>

namespace gearshift::transport::shm {
namespace {

base::Error protocol_error(const std::string& what) {
  return {base::ErrorCode::kProtocol, "shared-memory ring: " + what};
}

}  // namespace

base::Result<Inbox::Drained> Inbox::drain(std::size_t budget, const std::atomic<bool>& stop) {
  std::size_t total = 0;
  while (total < budget && stage_ != Stage::kEnded && !stop.load(std::memory_order_relaxed)) {
    const auto ready = ring_.readable();
    if (!ready) return protocol_error("the peer's position is impossible");
    GEARSHIFT_ASSIGN_OR_RETURN(const std::size_t taken, step(*ready));
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

base::Result<std::size_t> Inbox::step(std::size_t ready) {
  switch (stage_) {
    case Stage::kHeader:
      if (ready < sizeof header_) return std::size_t{0};
      ring_.take(base::writable_bytes_of(header_));
      count(sizeof header_);
      GEARSHIFT_RETURN_IF_ERROR(begin_message());
      return sizeof header_;
    case Stage::kHead: {
      const std::size_t size = std::min(ready, head_.size() - done_);
      ring_.take(base::slice(base::Bytes(head_), done_, size));
      count(size);
      done_ += size;
      if (done_ == head_.size()) GEARSHIFT_RETURN_IF_ERROR(announce());
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

base::Status Inbox::begin_message() {
  using Kind = FrameHeader::Kind;
  const Kind kind = header_.kind;
  if (header_.magic != FrameHeader::kMagic || kind < Kind::kMessage || kind > Kind::kGoodbye) {
    return protocol_error("a frame without a header");
  }
  if (header_.head_bytes > kMaxHeadBytes || header_.body_bytes > kMaxBodyBytes) {
    return protocol_error("an oversized frame, head " + std::to_string(header_.head_bytes) +
                          ", body " + std::to_string(header_.body_bytes) + " bytes");
  }
  if (kind == Kind::kGoodbye) {
    stage_ = Stage::kEnded;
    return {};
  }
  done_ = 0;
  head_.resize(header_.head_bytes);
  stage_ = Stage::kHead;
  return head_.empty() ? announce() : base::Status();
}

base::Status Inbox::announce() {
  Tag tag;
  tag.value = header_.tag;
  GEARSHIFT_ASSIGN_OR_RETURN(landing_, matcher_.arrive(tag, head_, header_.body_bytes));
  done_ = 0;
  stage_ = Stage::kBody;
  if (header_.body_bytes == 0) finish();
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
