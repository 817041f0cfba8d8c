#include "transport/shm/setup.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <system_error>

#include "transport/stopping.h"

namespace gearshift::transport::shm {
namespace {

using base::Error;
using base::ErrorCode;

constexpr int kBacklog = 256;
constexpr std::size_t kMaxRingBytes = std::size_t{1} << 30;

Error system_error(const char* what) {
  return {ErrorCode::kIo, std::string(what) + ": " + std::system_category().message(errno)};
}

base::Fd make_socket() {
  return base::Fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/// An address in the abstract namespace: a leading zero byte, and no file.
socklen_t fill_address(const std::string& name, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  const std::size_t size = std::min(name.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path + 1, name.data(), size);
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size);
}

base::Result<std::uint64_t> random_number() {
  std::uint64_t value = 0;
  if (::getrandom(&value, sizeof value, 0) != sizeof value) return system_error("getrandom");
  return value;
}

base::Status connect_socket(const base::Scheduler& scheduler, int socket, const std::string& name,
                            base::TimePoint deadline, const std::stop_token& stop) {
  sockaddr_un address;
  const socklen_t size = fill_address(name, address);
  for (;;) {
    if (::connect(socket, reinterpret_cast<const sockaddr*>(&address), size) == 0) return {};
    if (errno == ECONNREFUSED) {
      return Error(ErrorCode::kPeerLost, "nobody listens at its address (any more)");
    }
    if (errno != EAGAIN && errno != EINTR) return system_error("connect");
    GEARSHIFT_RETURN_IF_ERROR(go_on_unless(stop));
    // The listener's backlog is full. Unix sockets offer no event to wait for here.
    if (scheduler.now() >= deadline) {
      return Error(ErrorCode::kTimeout, "the peer does not take connections");
    }
    ::usleep(1000);
  }
}

Hello make_hello(const Identity& identity, std::uint64_t link) {
  Hello hello;
  hello.purpose = kPurposeLink;
  hello.generation = identity.generation;
  hello.rank = identity.rank;
  hello.link = link;
  return hello;
}

/// Powers of two make positions cheap; half a piece is the least that still streams.
std::size_t usable_ring_bytes(std::size_t wish) {
  return std::bit_ceil(std::clamp<std::size_t>(wish, 4096, kMaxRingBytes));
}

base::Result<LinkParts> try_connect(const base::Scheduler& scheduler, const Identity& identity,
                                    base::Rank peer, const std::string& socket_name,
                                    std::size_t ring_bytes, base::TimePoint deadline,
                                    const std::stop_token& stop) {
  LinkParts parts;
  parts.peer = peer;
  parts.creator = true;
  parts.ring_bytes = usable_ring_bytes(ring_bytes);
  parts.socket = make_socket();
  if (!parts.socket) return system_error("socket");
  const int socket = parts.socket.get();
  GEARSHIFT_RETURN_IF_ERROR(connect_socket(scheduler, socket, socket_name, deadline, stop));
  GEARSHIFT_RETURN_IF_ERROR(check_user(socket));
  GEARSHIFT_ASSIGN_OR_RETURN(const std::uint64_t link, random_number());
  PacketStream stream(scheduler, socket, stop);
  GEARSHIFT_ASSIGN_OR_RETURN(
      const Hello theirs,
      handshake_as_client(stream, make_hello(identity, link), identity.token, deadline));
  if (theirs.rank != peer) {
    return Error(ErrorCode::kMismatch, "the address belongs to rank " +
                                           std::to_string(theirs.rank.value) + ", not to rank " +
                                           std::to_string(peer.value));
  }
  GEARSHIFT_ASSIGN_OR_RETURN(parts.region,
                             SharedRegion::create(link_region_bytes(parts.ring_bytes)));
  ControlRecord setup;
  setup.kind = ControlRecord::Kind::kSetup;
  setup.size = parts.ring_bytes;
  if (send_record(socket, setup, parts.region->fd()) != SendOutcome::kSent) {
    return Error(ErrorCode::kPeerLost, "the peer left during the set-up");
  }
  GEARSHIFT_RETURN_IF_ERROR(
      await_record(scheduler, socket, ControlRecord::Kind::kReady, deadline, stop));
  return parts;
}

}  // namespace

base::Result<Listener> listen_anywhere() {
  Listener listener;
  listener.socket = make_socket();
  if (!listener.socket) {
    return Error(ErrorCode::kUnsupported, "shared-memory transport: no Unix packet sockets: " +
                                              system_error("socket").message);
  }
  GEARSHIFT_ASSIGN_OR_RETURN(const std::uint64_t first, random_number());
  GEARSHIFT_ASSIGN_OR_RETURN(const std::uint64_t second, random_number());
  listener.name = "gearshift-" + std::to_string(first) + "-" + std::to_string(second);
  sockaddr_un address;
  const socklen_t size = fill_address(listener.name, address);
  if (::bind(listener.socket.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::listen(listener.socket.get(), kBacklog) != 0) {
    return Error(ErrorCode::kUnsupported, "shared-memory transport: no abstract Unix sockets: " +
                                              system_error("bind").message);
  }
  return listener;
}

base::Status check_user(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return system_error("SO_PEERCRED");
  }
  if (peer.uid == ::geteuid()) return {};
  return Error(ErrorCode::kUnauthenticated, "process " + std::to_string(peer.pid) +
                                                " belongs to user " + std::to_string(peer.uid));
}

base::Fd accept_one(int listener) {
  return base::Fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

base::Result<LinkParts> connect_link(const base::Scheduler& scheduler, const Identity& identity,
                                     base::Rank peer, const std::string& socket_name,
                                     std::size_t ring_bytes, base::TimePoint deadline,
                                     const std::stop_token& stop) {
  auto parts = try_connect(scheduler, identity, peer, socket_name, ring_bytes, deadline, stop);
  if (parts) return parts;
  Error error =
      parts.error().within("shared-memory connection to rank " + std::to_string(peer.value));
  // What fails here without the peer is a lack of this process.
  error.culprit = error.code == ErrorCode::kIo ? identity.rank.value : peer.value;
  return error;
}

base::Result<LinkParts> accept_link(const base::Scheduler& scheduler, const Identity& identity,
                                    int socket, base::TimePoint deadline) {
  PacketStream stream(scheduler, socket);
  GEARSHIFT_ASSIGN_OR_RETURN(
      const Hello theirs,
      handshake_as_server(stream, make_hello(identity, 0), identity.token, deadline));
  GEARSHIFT_ASSIGN_OR_RETURN(
      Received setup, await_record(scheduler, socket, ControlRecord::Kind::kSetup, deadline));
  LinkParts parts;
  parts.peer = theirs.rank;
  parts.ring_bytes = setup.record->size;
  if (parts.ring_bytes > kMaxRingBytes || parts.ring_bytes != usable_ring_bytes(parts.ring_bytes)) {
    return Error(ErrorCode::kProtocol,
                 "rings of " + std::to_string(parts.ring_bytes) + " bytes are impossible");
  }
  GEARSHIFT_ASSIGN_OR_RETURN(
      parts.region, SharedRegion::map(std::move(setup.fd), link_region_bytes(parts.ring_bytes)));
  return parts;
}

}  // namespace gearshift::transport::shm
