#pragma once

#include <sys/socket.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gearshift/base/fd.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/transport/handshake.h"

namespace gearshift::rendezvous::tcp {

/// Asked now and then by who waits; an error ends that. Empty: nothing does.
using GoOn = std::function<base::Status()>;

/// A connected non-blocking TCP socket under deadlines. Thread-safety: one user at a time, but
/// `shutdown` from anywhere.
class Socket final : public transport::ByteStream {
 public:
  Socket(base::Scheduler& scheduler, base::Fd fd, GoOn go_on = {})
      : scheduler_(&scheduler), fd_(std::move(fd)), go_on_(std::move(go_on)) {}
  base::Status read_exact(base::Bytes into, base::TimePoint deadline) override;
  base::Status write_all(base::ConstBytes from, base::TimePoint deadline) override;
  /// Waits for bytes or the end of the stream, for as long as it takes.
  base::Status wait_readable(base::TimePoint deadline);
  /// Whether the peer has closed its side.
  bool hung_up() const;
  /// The address of this end.
  base::Result<std::string> own_address() const;
  /// Makes every pending and later operation fail.
  void shutdown();

 private:
  base::Status wait_for(short events, base::TimePoint deadline);
  base::Scheduler* scheduler_;
  base::Fd fd_;
  GoOn go_on_;
};

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

/// All addresses of a name; IPv6 may stand in brackets. kInvalidArgument when there is none.
base::Result<std::vector<Address>> resolve(const std::string& host, int port, bool passive);
/// "10.0.0.1" and "10.0.0.1:4711"; IPv6 stands in brackets where a port follows.
std::string host_text(const Address& address);
std::string text_of(const Address& address);
std::string join_host_port(const std::string& host, int port);

/// Those of IPv4 first. A process listens on the address that it has here, and others of the job
/// may have no IPv6: where all have IPv4, all meet there.
std::vector<Address> in_dialling_order(std::vector<Address> addresses);
/// Connects to the first address that answers; each of them has its part of the time that is left,
/// so that one that swallows packets leaves some to the others. kIo or kTimeout, with the reason of
/// each.
base::Result<Socket> dial_any(base::Scheduler& scheduler, const std::vector<Address>& addresses,
                              base::TimePoint deadline, const GoOn& go_on = {});
/// The same for those of a name.
base::Result<Socket> dial(base::Scheduler& scheduler, const std::string& host, int port,
                          base::TimePoint deadline, const GoOn& go_on = {});
/// Non-blocking listening sockets on all addresses of the host that this machine has, at one port.
base::Result<std::vector<base::Fd>> listen_on(const std::string& host, int port);
base::Result<Address> bound_address(const base::Fd& fd);

/// "what: reason (errno)" as kIo.
base::Error io_error(const std::string& what, int error_number);

}  // namespace gearshift::rendezvous::tcp
