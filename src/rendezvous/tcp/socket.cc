#include "rendezvous/tcp/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>
#include <system_error>

namespace gearshift::rendezvous::tcp {
namespace {

/// Pending connections that the kernel keeps for us: a whole job may arrive at once.
constexpr int kBacklog = 1024;

int poll_timeout(base::Duration rest) {
  constexpr base::Duration kLongest = std::chrono::hours(1);
  rest = std::clamp(rest, base::Duration::zero(), kLongest);
  // Rounded up: waking before the deadline would only spin.
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(rest).count());
}

/// How often who waits asks whether to go on.
constexpr base::Duration kAskAgain = std::chrono::milliseconds(100);

/// False at the deadline.
base::Result<bool> await_events(const base::Scheduler& scheduler, int fd, short events,
                                base::TimePoint deadline, const GoOn& go_on) {
  while (true) {
    const base::Duration left = deadline - scheduler.now();
    pollfd waiting{fd, events, 0};
    const int ready = ::poll(&waiting, 1, poll_timeout(go_on ? std::min(left, kAskAgain) : left));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return io_error("poll", errno);
    if (go_on) GEARSHIFT_RETURN_IF_ERROR(go_on());
    if (scheduler.now() >= deadline) return false;
  }
}

void set_option(const base::Fd& fd, int level, int option, int value) {
  // All options set here only tune: a kernel without them still serves.
  [[maybe_unused]] const int rc = ::setsockopt(fd.get(), level, option, &value, sizeof value);
}

int port_of(const Address& address) {
  return ntohs(address.storage.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_port
                   : reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port);
}

void set_port(Address& address, int port) {
  auto& place = address.storage.ss_family == AF_INET6
                    ? reinterpret_cast<sockaddr_in6*>(&address.storage)->sin6_port
                    : reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port;
  place = htons(static_cast<std::uint16_t>(port));
}

/// Where nobody listens on a port of this host that the system may choose for clients, a client can
/// be given the very port that it dials, and be answered by itself.
bool is_connected_to_itself(int socket) {
  Address near;
  Address far;
  near.size = far.size = sizeof near.storage;
  return ::getsockname(socket, near.get(), &near.size) == 0 &&
         ::getpeername(socket, far.get(), &far.size) == 0 && text_of(near) == text_of(far);
}

/// `among_others`: has its own family only. On failure, errno is what the system said.
base::Result<base::Fd> listen_at(const Address& address, bool among_others) {
  base::Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return io_error("socket", errno);
  // A store that restarts must not wait for the last one's connections to fade.
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (among_others && address.storage.ss_family == AF_INET6) {
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  }
  if (::bind(fd.get(), address.get(), address.size) == 0 && ::listen(fd.get(), kBacklog) == 0) {
    return fd;
  }
  const int reason = errno;
  base::Error error = io_error("listen on " + text_of(address), reason);
  fd.reset();
  errno = reason;
  return error;
}

std::string strip_brackets(const std::string& host) {
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  return bracketed ? host.substr(1, host.size() - 2) : host;
}

base::Result<Socket> dial_one(base::Scheduler& scheduler, const Address& address,
                              base::TimePoint deadline, const GoOn& go_on) {
  base::Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return io_error("no socket to connect to " + text_of(address), errno);
  const int raw = fd.get();
  if (::connect(raw, address.get(), address.size) != 0) {
    if (errno != EINPROGRESS) return io_error("connect to " + text_of(address), errno);
    GEARSHIFT_ASSIGN_OR_RETURN(const bool ready,
                               await_events(scheduler, raw, POLLOUT, deadline, go_on));
    if (!ready)
      return base::Error(base::ErrorCode::kTimeout, text_of(address) + " does not answer");
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(raw, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return io_error("connect to " + text_of(address), error);
  }
  if (is_connected_to_itself(raw)) {
    return base::Error(base::ErrorCode::kIo, "nobody listens on " + text_of(address));
  }
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  return Socket(scheduler, std::move(fd), go_on);
}

}  // namespace

base::Error io_error(const std::string& what, int error_number) {
  return {base::ErrorCode::kIo, what + ": " + std::generic_category().message(error_number)};
}

base::Status Socket::wait_for(short events, base::TimePoint deadline) {
  GEARSHIFT_ASSIGN_OR_RETURN(const bool ready,
                             await_events(*scheduler_, fd_.get(), events, deadline, go_on_));
  if (ready) return {};
  return base::Error(base::ErrorCode::kTimeout, "the other side does not answer");
}

base::Status Socket::wait_readable(base::TimePoint deadline) { return wait_for(POLLIN, deadline); }

base::Status Socket::read_exact(base::Bytes into, base::TimePoint deadline) {
  while (!into.empty()) {
    const ssize_t got = ::recv(fd_.get(), into.data(), into.size(), 0);
    if (got > 0) {
      into = into.subspan(static_cast<std::size_t>(got));
    } else if (got == 0) {
      return base::Error(base::ErrorCode::kIo, "the other side closed the connection");
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      GEARSHIFT_RETURN_IF_ERROR(wait_for(POLLIN, deadline));
    } else if (errno != EINTR) {
      return io_error("receive", errno);
    }
  }
  return {};
}

base::Status Socket::write_all(base::ConstBytes from, base::TimePoint deadline) {
  while (!from.empty()) {
    const ssize_t sent = ::send(fd_.get(), from.data(), from.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      from = from.subspan(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      GEARSHIFT_RETURN_IF_ERROR(wait_for(POLLOUT, deadline));
    } else if (errno != EINTR) {
      return io_error("send", errno);
    }
  }
  return {};
}

bool Socket::hung_up() const {
  pollfd state{fd_.get(), POLLRDHUP, 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

base::Result<std::string> Socket::own_address() const {
  GEARSHIFT_ASSIGN_OR_RETURN(const Address address, bound_address(fd_));
  return host_text(address);
}

void Socket::shutdown() { ::shutdown(fd_.get(), SHUT_RDWR); }

base::Result<std::vector<Address>> resolve(const std::string& host, int port, bool passive) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  const std::string name = strip_brackets(host);
  addrinfo* list = nullptr;
  const int rc = ::getaddrinfo(name.empty() ? nullptr : name.c_str(), std::to_string(port).c_str(),
                               &hints, &list);
  if (rc != 0) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "cannot resolve host '" + host + "': " + ::gai_strerror(rc));
  }
  std::vector<Address> found;
  for (const addrinfo* at = list; at != nullptr; at = at->ai_next) {
    Address address;
    address.size = at->ai_addrlen;
    std::copy_n(reinterpret_cast<const char*>(at->ai_addr), at->ai_addrlen,
                reinterpret_cast<char*>(&address.storage));
    found.push_back(address);
  }
  ::freeaddrinfo(list);
  return found;
}

std::string host_text(const Address& address) {
  char host[NI_MAXHOST] = "?";
  ::getnameinfo(address.get(), address.size, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
  return host;
}

std::string join_host_port(const std::string& host, int port) {
  const std::string name = strip_brackets(host);
  const bool v6 = name.find(':') != std::string::npos;
  return (v6 ? "[" + name + "]" : name) + ":" + std::to_string(port);
}

std::string text_of(const Address& address) {
  return join_host_port(host_text(address), port_of(address));
}

std::vector<Address> in_dialling_order(std::vector<Address> addresses) {
  std::stable_partition(addresses.begin(), addresses.end(), [](const Address& address) {
    return address.storage.ss_family == AF_INET;
  });
  return addresses;
}

base::Result<Socket> dial_any(base::Scheduler& scheduler, const std::vector<Address>& addresses,
                              base::TimePoint deadline, const GoOn& go_on) {
  std::optional<base::Error> failed;
  auto left = static_cast<int>(addresses.size());
  for (const Address& address : addresses) {
    const base::TimePoint now = scheduler.now();
    auto socket = dial_one(scheduler, address, now + (deadline - now) / left--, go_on);
    if (socket || socket.error().code == base::ErrorCode::kAborted) return socket;
    if (failed) {
      failed->message += "; " + socket.error().message;
    } else {
      failed = socket.error();
    }
  }
  return failed.value_or(base::Error(base::ErrorCode::kIo, "there is no address"));
}

base::Result<Socket> dial(base::Scheduler& scheduler, const std::string& host, int port,
                          base::TimePoint deadline, const GoOn& go_on) {
  GEARSHIFT_ASSIGN_OR_RETURN(auto addresses, resolve(host, port, false));
  return dial_any(scheduler, in_dialling_order(std::move(addresses)), deadline, go_on);
}

base::Result<std::vector<base::Fd>> listen_on(const std::string& host, int port) {
  GEARSHIFT_ASSIGN_OR_RETURN(const auto addresses, resolve(host, port, true));
  std::vector<base::Fd> listeners;
  std::set<std::string> hosts;
  const bool chosen_by_system = port == 0;
  base::Error last(base::ErrorCode::kIo, "'" + host + "' has no address");
  for (Address address : addresses) {
    // Of the first, where the system chose it.
    if (!listeners.empty()) set_port(address, port);
    if (!hosts.insert(host_text(address)).second) continue;
    auto listener = listen_at(address, addresses.size() > 1);
    if (listener) {
      GEARSHIFT_ASSIGN_OR_RETURN(const Address bound, bound_address(*listener));
      port = port_of(bound);
      listeners.push_back(*std::move(listener));
      continue;
    }
    // The clients might meet elsewhere.
    if (errno == EADDRINUSE && !chosen_by_system) return listener.error();
    last = listener.error();
  }
  if (listeners.empty()) return last;
  return listeners;
}

base::Result<Address> bound_address(const base::Fd& fd) {
  Address address;
  address.size = sizeof address.storage;
  if (::getsockname(fd.get(), address.get(), &address.size) != 0) {
    return io_error("getsockname", errno);
  }
  return address;
}

}  // namespace gearshift::rendezvous::tcp
