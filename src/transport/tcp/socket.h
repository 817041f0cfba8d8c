#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <utility>

#include "gearshift/base/forks.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/transport/handshake.h"

namespace gearshift::transport::tcp {

/// Owns a file descriptor, which forked children do not get.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) { base::keep_from_children(fd_); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// The two halves of "tcp://host:port"; an IPv6 host is written in brackets.
struct HostPort {
  std::string host;
  std::string port;
};
base::Result<HostPort> parse_address(const std::string& address);

/// All sockets here are non-blocking, close-on-exec and, once connected, without Nagle's delay.
base::Result<Fd> listen_on(const std::string& host, int port);
/// Who connects.
struct Caller {
  int rank = -1;           ///< the culprit where this process may have no more sockets
  std::uint32_t zone = 0;  ///< of link-local addresses that name none: the number of an interface
  std::stop_token stop{};  ///< kAborted then
};
base::Result<Fd> connect_to(const base::Scheduler& scheduler, const std::string& address,
                            base::TimePoint deadline, const Caller& caller = {});
/// The next waiting socket; an empty Fd when there is none. kIo when the process has no more
/// descriptors.
base::Result<Fd> accept_from(const Fd& listener);

/// The most that this process may have sent and the peer not acknowledged, which the kernel chooses
/// by itself again when `bytes` is 0, or more than a process may ask for. A refusal by the kernel
/// is no error.
void limit_outflow(const Fd& fd, std::size_t bytes);

/// "tcp://127.0.0.1:4711" of this end, or of the other.
std::string local_address(const Fd& fd);
std::string remote_address(const Fd& fd);
/// The address of this end for other hosts: a link-local one without its zone, which is the name of
/// an interface here.
std::string published_address(const Fd& fd);
/// The number of that interface; 0 where this end has another address.
std::uint32_t zone_of(const Fd& fd);

/// What the last system call said, as an error of this module.
base::Error last_io_error(const std::string& what);

/// A connected socket during its handshake. Errors: kPeerLost, kTimeout, and kAborted once `stop`
/// is requested.
class SocketStream final : public ByteStream {
 public:
  SocketStream(const base::Scheduler& scheduler, const Fd& fd, std::stop_token stop = {})
      : scheduler_(scheduler), fd_(fd), stop_(std::move(stop)) {}
  base::Status read_exact(base::Bytes into, base::TimePoint deadline) override;
  base::Status write_all(base::ConstBytes from, base::TimePoint deadline) override;

 private:
  const base::Scheduler& scheduler_;
  const Fd& fd_;
  const std::stop_token stop_;
};

}  // namespace gearshift::transport::tcp
