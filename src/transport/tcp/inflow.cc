#include "transport/tcp/inflow.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace gearshift::transport::tcp {

using base::Error;
using base::ErrorCode;
using base::Status;

Status Inflow::read() {
  taken_ = 0;
  drained_ = false;
  while (taken_ < kTurnBytes) {
    // Everything buffered has been used, but for less than a header.
    const std::size_t direct = rest_.size();
    iovec pieces[2] = {{rest_.data(), direct}, {buffer_.data() + end_, room()}};
    const ssize_t got =
        direct > 0 ? ::readv(fd_.get(), pieces, 2) : ::readv(fd_.get(), pieces + 1, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      drained_ = true;
      return {};
    }
    if (got <= 0) return end_of_stream(got == 0 ? 0 : errno);
    const auto bytes = static_cast<std::size_t>(got);
    TrafficCounters::add(traffic_.bytes_received, bytes);
    taken_ += bytes;
    const std::size_t placed = std::min(bytes, direct);
    rest_ = rest_.subspan(placed);
    end_ += bytes - placed;
    GEARSHIFT_RETURN_IF_ERROR(consume());
    if (frame_.part_bytes() > 0) TrafficCounters::add(traffic_.payload_received, bytes);
    // Less than asked for: the socket is empty now, spare the call that would say so.
    if (bytes < direct + pieces[1].iov_len) {
      drained_ = true;
      return {};
    }
  }
  return {};
}

Status Inflow::end_of_stream(int error) {
  ended_ = true;
  if (over()) return {};
  const std::string how = error == 0 ? "without a good-bye (its process ended?)"
                                     : std::generic_category().message(error);
  return Error(ErrorCode::kPeerLost, "the connection ended: " + how);
}

Status Inflow::consume() {
  for (;;) {
    if (state_ == State::kHead || state_ == State::kBody) {
      const std::size_t take = std::min(rest_.size(), buffered());
      if (take > 0) std::memcpy(rest_.data(), buffer_.data() + begin_, take);
      begin_ += take;
      rest_ = rest_.subspan(take);
      if (!rest_.empty()) break;
      if (state_ == State::kHead) {
        GEARSHIFT_RETURN_IF_ERROR(begin_body());
      } else {
        end_frame();
      }
    } else if (state_ == State::kOver) {
      if (buffered() == 0) break;
      return Error(ErrorCode::kProtocol, "bytes after a good-bye");
    } else if (buffered() >= sizeof(Frame)) {
      GEARSHIFT_RETURN_IF_ERROR(begin_frame());
    } else {
      break;
    }
  }
  std::memmove(buffer_.data(), buffer_.data() + begin_, buffered());
  end_ = buffered();
  begin_ = 0;
  return {};
}

Status Inflow::begin_frame() {
  std::memcpy(&frame_, buffer_.data() + begin_, sizeof(Frame));
  begin_ += sizeof(Frame);
  GEARSHIFT_RETURN_IF_ERROR(check(frame_));
  if (frame_.kind == FrameKind::kBye) {
    state_ = State::kOver;
    return {};
  }
  head_.resize(frame_.head_bytes);
  rest_ = head_;
  state_ = State::kHead;
  return {};
}

Status Inflow::begin_body() {
  GEARSHIFT_ASSIGN_OR_RETURN(rest_, sink_.begin(stream_, frame_, std::move(head_)));
  head_.clear();
  state_ = State::kBody;
  return {};
}

void Inflow::end_frame() {
  sink_.end(stream_, frame_);
  state_ = State::kFrame;
}

}  // namespace gearshift::transport::tcp
