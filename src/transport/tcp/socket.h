#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <utility>

#include "gearshift/base/fd.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/transport/handshake.h"

namespace gearshift::transport::tcp {

/// The two halves of "tcp://host:port"; an IPv6 host is written in brackets.
struct HostPort {
  std::string host;
  std::string port;
};
base::Result<HostPort> parse_address(const std::string& address);

/// All sockets here are non-blocking, close-on-exec and, once connected, without Nagle's delay.
base::Result<base::Fd> listen_on(const std::string& host, int port);
/// Who connects.
struct Caller {
  int rank = -1;           ///< the culprit where this process may have no more sockets
  std::uint32_t zone = 0;  ///< of link-local addresses that name none: the number of an interface
  std::stop_token stop{};  ///< kAborted then
};
base::Result<base::Fd> connect_to(const base::Scheduler& scheduler, const std::string& address,
                                  base::TimePoint deadline, const Caller& caller = {});
/// The next waiting socket; an empty Fd when there is none. kIo when the process has no more
/// descriptors.
base::Result<base::Fd> accept_from(const base::Fd& listener);

/// The most that this process may have sent and the peer not acknowledged, which the kernel chooses
/// by itself again when `bytes` is 0, or more than a process may ask for. A refusal by the kernel
/// is no error.
void limit_outflow(const base::Fd& fd, std::size_t bytes);

/// "tcp://127.0.0.1:4711" of this end, or of the other.
std::string local_address(const base::Fd& fd);
std::string remote_address(const base::Fd& fd);
/// The address of this end for other hosts: a link-local one without its zone, which is the name of
/// an interface here.
std::string published_address(const base::Fd& fd);
/// The number of that interface; 0 where this end has another address.
std::uint32_t zone_of(const base::Fd& fd);

/// What the last system call said, as an error of this module.
base::Error last_io_error(const std::string& what);

/// A connected socket during its handshake. Errors: kPeerLost, kTimeout, and kAborted once `stop`
/// is requested.
class SocketStream final : public ByteStream {
 public:
  SocketStream(const base::Scheduler& scheduler, const base::Fd& fd, std::stop_token stop = {})
      : scheduler_(scheduler), fd_(fd), stop_(std::move(stop)) {}
  base::Status read_exact(base::Bytes into, base::TimePoint deadline) override;
  base::Status write_all(base::ConstBytes from, base::TimePoint deadline) override;

 private:
  const base::Scheduler& scheduler_;
  const base::Fd& fd_;
  const std::stop_token stop_;
};

}  // namespace gearshift::transport::tcp
