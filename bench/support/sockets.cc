#include "support/sockets.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "support/gate.h"

namespace gearshift::bench {

void fail(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

sockaddr_in address_of_rank_0() {
  const char* host = std::getenv("MASTER_ADDR");
  addrinfo hints{};
  hints.ai_family = AF_INET;
  addrinfo* found = nullptr;
  if (host == nullptr || ::getaddrinfo(host, nullptr, &hints, &found) != 0) {
    throw std::runtime_error("MASTER_ADDR is not set, or not known");
  }
  sockaddr_in address{};
  std::memcpy(&address, found->ai_addr, sizeof address);
  ::freeaddrinfo(found);
  address.sin_port = htons(static_cast<std::uint16_t>(number_from_environment("MASTER_PORT")));
  return address;
}

int listen_at(const sockaddr_in& address) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fail("bind");
  }
  if (::listen(listener, 64) != 0) fail("listen");
  return listener;
}

int accept_one(int listener) {
  const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) fail("accept");
  return fd;
}

int connect_to(const sockaddr_in& address) {
  for (int attempt = 0; attempt < 200; ++attempt) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
    ::close(fd);
    ::usleep(50'000);
  }
  fail("connect");
}

sockaddr_in local_address(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) fail("getsockname");
  return address;
}

void disable_delay(int fd) {
  const int yes = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

void send_all(int fd, const void* data, std::size_t size) {
  for (const char* next = static_cast<const char*>(data); size > 0;) {
    const ssize_t n = ::send(fd, next, size, MSG_NOSIGNAL);
    if (n <= 0) fail("send");
    next += n;
    size -= static_cast<std::size_t>(n);
  }
}

void receive_all(int fd, void* data, std::size_t size) {
  for (char* next = static_cast<char*>(data); size > 0;) {
    const ssize_t n = ::recv(fd, next, size, 0);
    if (n <= 0) fail("recv");
    next += n;
    size -= static_cast<std::size_t>(n);
  }
}

}  // namespace gearshift::bench
