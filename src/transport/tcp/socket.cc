#include "transport/tcp/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <limits>
#include <memory>
#include <system_error>

#include "gearshift/transport/tcp/factory.h"
#include "transport/stopping.h"
#include "transport/tcp/congestion.h"

namespace gearshift::transport::tcp {

using base::Error;
using base::ErrorCode;
using base::Fd;
using base::Result;
using base::Status;
using base::TimePoint;

namespace {

constexpr std::string_view kScheme = "tcp://";

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Result<Addresses> resolve(const HostPort& at, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int failed = ::getaddrinfo(at.host.c_str(), at.port.c_str(), &hints, &list);
  if (failed != 0) {
    return Error(ErrorCode::kIo, "cannot resolve host " + at.host + ": " + ::gai_strerror(failed));
  }
  return Addresses(list);
}

Fd open_socket(const addrinfo& address) {
  Fd fd(::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd) begin_with_cubic(fd);
  return fd;
}

void tune(const Fd& fd) {
  const int on = 1;
  const int unsent = static_cast<int>(kUnsentBytes);
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
}

/// Linux 5.14; older C libraries don't know it.
#ifdef SO_BUF_LOCK
constexpr int kBufferLock = SO_BUF_LOCK;
#else
constexpr int kBufferLock = 72;
#endif
constexpr int kSendBufferLock = 1;

/// Less than a packet or two waits for timers.
constexpr std::size_t kLeastUnderWay = 16 << 10;
/// The kernel gives a process no more than this and a little (net.core.wmem_max), unless it chooses
/// by itself: then it may be much more.
constexpr std::size_t kMostUnderWay = 192 << 10;
/// A buffer is filled again when a third of it is free, and has some bookkeeping in it.
constexpr double kBufferShare = 1.25;

/// Waits until `fd` is ready for `events` (or broken: the next call on it will say so).
Status await(const base::Scheduler& scheduler, const Fd& fd, short events, TimePoint deadline,
             const std::stop_token& stop) {
  for (;;) {
    GEARSHIFT_RETURN_IF_ERROR(go_on_unless(stop));
    int milliseconds = -1;
    if (deadline != TimePoint::never() || stop.stop_possible()) {
      const base::Duration left = deadline - scheduler.now();
      if (left <= base::Duration::zero()) {
        return Error(ErrorCode::kTimeout, "no answer before the deadline");
      }
      const auto rest = std::chrono::ceil<std::chrono::milliseconds>(until_next_look(left, stop));
      milliseconds =
          static_cast<int>(std::min<std::int64_t>(rest.count(), std::numeric_limits<int>::max()));
    }
    pollfd entry{fd.get(), events, 0};
    const int ready = ::poll(&entry, 1, milliseconds);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return last_io_error("poll");
  }
}

/// Of a socket that was connected.
Error lost_peer(const std::string& what) {
  Error error = last_io_error(what);
  error.code = ErrorCode::kPeerLost;
  return error;
}

std::string format(const sockaddr_storage& address, socklen_t size) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof(host), port,
                    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "tcp://unknown";
  }
  const bool brackets = address.ss_family == AF_INET6;
  return std::string(kScheme) + (brackets ? "[" : "") + host + (brackets ? "]" : "") + ":" + port;
}

sockaddr_storage own_end(const Fd& fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return address;
}

/// The address if it is of IPv6 and link-local, which means nothing without an interface.
sockaddr_in6* as_link_local(sockaddr* address) {
  if (address->sa_family != AF_INET6) return nullptr;
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(address);
  return IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) ? v6 : nullptr;
}

Status connect_one(const base::Scheduler& scheduler, const Fd& fd, const addrinfo& address,
                   TimePoint deadline, const std::stop_token& stop) {
  if (::connect(fd.get(), address.ai_addr, address.ai_addrlen) == 0) return {};
  if (errno != EINPROGRESS) return last_io_error("connect");
  GEARSHIFT_RETURN_IF_ERROR(await(scheduler, fd, POLLOUT, deadline, stop));
  int outcome = 0;
  socklen_t size = sizeof(outcome);
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &outcome, &size);
  if (outcome == 0) return {};
  errno = outcome;
  return last_io_error("connect");
}

}  // namespace

void limit_outflow(const Fd& fd, std::size_t bytes) {
  if (bytes > kMostUnderWay) bytes = 0;
  const double buffer = kBufferShare * static_cast<double>(std::max(bytes, kLeastUnderWay));
  // Not 0: the kernel does not adapt the buffer. Unknown: it could not be made to again.
  int locked = 0;
  socklen_t length = sizeof(locked);
  const bool known = ::getsockopt(fd.get(), SOL_SOCKET, kBufferLock, &locked, &length) == 0;
  if (!known || (bytes == 0 && locked == 0)) return;
  // The kernel takes twice as much. It adapts upwards only: what is freed begins as large as may
  // be.
  const int size = bytes == 0 ? std::numeric_limits<int>::max() / 2 : static_cast<int>(buffer / 2);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
  const int lock = bytes == 0 ? 0 : kSendBufferLock;
  ::setsockopt(fd.get(), SOL_SOCKET, kBufferLock, &lock, sizeof(lock));
}

Error last_io_error(const std::string& what) {
  return {ErrorCode::kIo, what + ": " + std::generic_category().message(errno)};
}

Result<HostPort> parse_address(const std::string& address) {
  const Error invalid(ErrorCode::kInvalidArgument,
                      "'" + address + "' is no address of the form tcp://host:port");
  std::string_view rest = address;
  if (!rest.starts_with(kScheme)) return invalid;
  rest.remove_prefix(kScheme.size());
  const std::size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) return invalid;
  std::string_view host = rest.substr(0, colon);
  const std::string_view port = rest.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return invalid;
  }
  std::uint16_t number = 0;
  const auto [end, code] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (host.empty() || code != std::errc() || end != port.data() + port.size() || number == 0) {
    return invalid;
  }
  return HostPort{std::string(host), std::string(port)};
}

Result<Fd> listen_on(const std::string& host, int port) {
  const std::string where = "cannot listen on " + host + " port " + std::to_string(port);
  auto addresses = resolve({host, std::to_string(port)}, AI_PASSIVE);
  if (!addresses) return addresses.error().within(where);
  const addrinfo& address = **addresses;
  Fd fd = open_socket(address);
  if (!fd) return last_io_error(where);
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // The longest queue that the system allows: many ranks may knock at once.
  if (::bind(fd.get(), address.ai_addr, address.ai_addrlen) != 0 ||
      ::listen(fd.get(), std::numeric_limits<std::uint16_t>::max()) != 0) {
    return last_io_error(where);
  }
  return fd;
}

Result<Fd> connect_to(const base::Scheduler& scheduler, const std::string& address,
                      TimePoint deadline, const Caller& caller) {
  GEARSHIFT_ASSIGN_OR_RETURN(const HostPort at, parse_address(address));
  GEARSHIFT_ASSIGN_OR_RETURN(const Addresses addresses, resolve(at, 0));
  Error last(ErrorCode::kIo, "no address");
  for (const addrinfo* next = addresses.get(); next != nullptr; next = next->ai_next) {
    Fd fd = open_socket(*next);
    if (!fd) {
      last = last_io_error("socket");
      last.culprit = caller.rank;
      continue;
    }
    if (auto* const near = as_link_local(next->ai_addr);
        near != nullptr && near->sin6_scope_id == 0) {
      near->sin6_scope_id = caller.zone;
    }
    const Status connected = connect_one(scheduler, fd, *next, deadline, caller.stop);
    if (connected) {
      tune(fd);
      return fd;
    }
    last = connected.error();
  }
  return last;
}

Result<Fd> accept_from(const Fd& listener) {
  for (;;) {
    Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      tune(fd);
      return fd;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Fd();
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      return last_io_error("accept");
    }
    // Anything else (ECONNABORTED, EPROTO …) belongs to one caller that has gone: take the next.
    if (errno == EBADF || errno == EINVAL) return last_io_error("accept");
  }
}

std::string local_address(const Fd& fd) {
  const sockaddr_storage address = own_end(fd);
  return format(address, sizeof(address));
}

std::string published_address(const Fd& fd) {
  sockaddr_storage address = own_end(fd);
  if (auto* const near = as_link_local(reinterpret_cast<sockaddr*>(&address))) {
    near->sin6_scope_id = 0;
  }
  return format(address, sizeof(address));
}

std::uint32_t zone_of(const Fd& fd) {
  sockaddr_storage address = own_end(fd);
  auto* const near = as_link_local(reinterpret_cast<sockaddr*>(&address));
  return near == nullptr ? 0 : near->sin6_scope_id;
}

std::string remote_address(const Fd& fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  ::getpeername(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return format(address, size);
}

Status SocketStream::read_exact(base::Bytes into, TimePoint deadline) {
  while (!into.empty()) {
    const ssize_t got = ::recv(fd_.get(), into.data(), into.size(), 0);
    if (got > 0) {
      into = into.subspan(static_cast<std::size_t>(got));
    } else if (got == 0) {
      return Error(ErrorCode::kPeerLost, "the peer closed the socket during the handshake");
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      GEARSHIFT_RETURN_IF_ERROR(await(scheduler_, fd_, POLLIN, deadline, stop_));
    } else if (errno != EINTR) {
      return lost_peer("recv during the handshake");
    }
  }
  return {};
}

Status SocketStream::write_all(base::ConstBytes from, TimePoint deadline) {
  while (!from.empty()) {
    const ssize_t sent = ::send(fd_.get(), from.data(), from.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      from = from.subspan(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      GEARSHIFT_RETURN_IF_ERROR(await(scheduler_, fd_, POLLOUT, deadline, stop_));
    } else if (errno != EINTR) {
      return lost_peer("send during the handshake");
    }
  }
  return {};
}

}  // namespace gearshift::transport::tcp
