#include "transport/shm/control.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "gearshift/transport/text.h"
#include "transport/stopping.h"

namespace gearshift::transport::shm {
namespace {

using base::Error;
using base::ErrorCode;

/// Waits until the socket is ready for `events` (or broken, which the next call then finds).
base::Status wait_ready(const base::Scheduler& scheduler, int socket, short events,
                        base::TimePoint deadline, const std::stop_token& stop) {
  for (;;) {
    GEARSHIFT_RETURN_IF_ERROR(go_on_unless(stop));
    const base::Duration rest = deadline - scheduler.now();
    if (rest <= base::Duration::zero()) {
      return Error(ErrorCode::kTimeout, "the peer did not answer before the deadline");
    }
    const auto ms =
        std::chrono::ceil<std::chrono::milliseconds>(until_next_look(rest, stop)).count();
    pollfd entry{socket, events, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::min<long long>(ms, 60'000)));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) {
      return Error(ErrorCode::kIo, "poll: " + std::system_category().message(errno));
    }
  }
}

Error peer_gone() { return {ErrorCode::kPeerLost, "the peer closed its socket"}; }

/// The descriptor that came with a packet; all others that a stranger may have added are closed.
base::Fd only_descriptor(msghdr& message) {
  base::Fd kept;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      kept = base::Fd(fd);
    }
  }
  return kept;
}

}  // namespace

Error no_descriptors() {
  return {ErrorCode::kIo,
          "this process has no file descriptors left (`ulimit -n` shows how many it may have)"};
}

void ControlRecord::set_text(const std::string& value) {
  const std::string_view kept = cut_text(value, kTextBytes - 1);
  std::memcpy(text, kept.data(), kept.size());
  text[kept.size()] = '\0';
}

std::string ControlRecord::get_text() const { return {text, ::strnlen(text, kTextBytes)}; }

SendOutcome send_record(int socket, const ControlRecord& record, int fd) {
  iovec data{const_cast<ControlRecord*>(&record), sizeof record};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  for (;;) {
    if (::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return SendOutcome::kSent;
    if (errno == EINTR) continue;
    const bool full = errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS;
    return full ? SendOutcome::kFull : SendOutcome::kBroken;
  }
}

Received receive_record(int socket) {
  ControlRecord record;
  iovec data{&record, sizeof record};
  alignas(cmsghdr) char space[CMSG_SPACE(4 * sizeof(int))];
  Received result;
  for (;;) {
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    const ssize_t n = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) {
      // A peer that died with unread records resets the socket once; what it sent comes after.
      if (errno == EINTR || errno == ECONNRESET) continue;
      result.ended = errno != EAGAIN;
      return result;
    }
    result.fd = only_descriptor(message);
    if (n == 0) {
      result.ended = true;
    } else if (n != sizeof record || (message.msg_flags & MSG_TRUNC) != 0) {
      result.garbage = true;
    } else if ((message.msg_flags & MSG_CTRUNC) != 0) {
      // There is room for more than a correct peer sends. So either the kernel found no number for
      // the one that came, or there came too many.
      (result.fd ? result.garbage : result.lost_fd) = true;
    } else {
      result.record = record;
    }
    return result;
  }
}

base::Result<Received> await_record(const base::Scheduler& scheduler, int socket,
                                    ControlRecord::Kind kind, base::TimePoint deadline,
                                    const std::stop_token& stop) {
  for (;;) {
    Received received = receive_record(socket);
    if (received.record && received.record->kind == kind) return received;
    if (received.record && received.record->kind == ControlRecord::Kind::kAbort) {
      return Error(ErrorCode::kMismatch, "the peer refused: " + received.record->get_text());
    }
    if (received.ended) return peer_gone();
    if (received.lost_fd) return no_descriptors();
    if (received.record || received.garbage) {
      return Error(ErrorCode::kProtocol, "an unexpected record came during the set-up");
    }
    GEARSHIFT_RETURN_IF_ERROR(wait_ready(scheduler, socket, POLLIN, deadline, stop));
  }
}

base::Status PacketStream::read_exact(base::Bytes into, base::TimePoint deadline) {
  while (!into.empty()) {
    if (begin_ == end_) {
      const ssize_t n = ::recv(socket_, packet_, sizeof packet_, MSG_DONTWAIT);
      if (n < 0 && (errno == EINTR || errno == ECONNRESET)) continue;
      if (n < 0 && errno == EAGAIN) {
        GEARSHIFT_RETURN_IF_ERROR(wait_ready(scheduler_, socket_, POLLIN, deadline, stop_));
        continue;
      }
      if (n <= 0) return peer_gone();
      begin_ = 0;
      end_ = static_cast<std::size_t>(n);
    }
    const std::size_t size = std::min(into.size(), end_ - begin_);
    std::memcpy(into.data(), packet_ + begin_, size);
    begin_ += size;
    into = into.subspan(size);
  }
  return {};
}

base::Status PacketStream::write_all(base::ConstBytes from, base::TimePoint deadline) {
  while (!from.empty()) {
    const std::size_t size = std::min(from.size(), kPacketBytes);
    const ssize_t n = ::send(socket_, from.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) {
      from = from.subspan(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      GEARSHIFT_RETURN_IF_ERROR(wait_ready(scheduler_, socket_, POLLOUT, deadline, stop_));
    } else if (errno != EINTR) {
      return peer_gone();
    }
  }
  return {};
}

}  // namespace gearshift::transport::shm
