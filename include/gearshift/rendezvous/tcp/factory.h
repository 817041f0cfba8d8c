#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "gearshift/rendezvous/store.h"

namespace gearshift::rendezvous::tcp {

/// A running store server; stops when destroyed.
class Server {
 public:
  virtual ~Server() = default;
  /// "host:port" as bound (the port is the real one when 0 was asked for).
  virtual std::string address() const = 0;
};

/// Serves on host:port, on all addresses of the host. Every client proves the token
/// (transport/handshake.h, purpose "store"); strangers and garbage are refused, logged and disturb
/// nobody. `lasting`: none of the processes that meet there serves it, so it does not end with
/// their session, and holds what it knows of that for ever. Errors: kIo (address in use …).
base::Result<std::unique_ptr<Server>> serve(base::Scheduler& scheduler, const std::string& host,
                                            int port, const std::string& token,
                                            bool lasting = false);

/// Connects; retries until `deadline` because the server may start later. kTimeout says which
/// address was tried and the last reason; kUnauthenticated at once when the token is wrong.
/// `own_address`: where to put the address that this end of the connection has ("10.0.0.2"), which
/// is what the process should listen on. `server`: where to put the number that no other server
/// has; what stands there before is that of a server which is about to end, and is waited out, or
/// is refused (kUnsupported) where it lasts.
/// `answer_time`: after which a server that is silent counts as lost, later on; less than
/// `kLeastAnswerTime` counts as that, since a busy machine is not a broken one.
/// `go_on`: asked every 100 ms while an answer is waited for, now and later on, by whoever waits;
/// an error ends that, and is what it returns.
inline constexpr base::Duration kLeastAnswerTime = std::chrono::seconds(5);
base::Result<std::unique_ptr<Store>> connect(
    base::Scheduler& scheduler, const std::string& host, int port, const std::string& token,
    base::TimePoint deadline, std::string* own_address = nullptr, std::uint64_t* server = nullptr,
    base::Duration answer_time = kLeastAnswerTime, std::function<base::Status()> go_on = {});

/// What there is at an address where no store answers.
enum class Listener {
  kNone,     ///< nobody takes connections there
  kSilent,   ///< somebody does, and says nothing; so does a store that stands still
  kHangsUp,  ///< somebody does, and closes them, as a relay does whose own port is not there yet
};
Listener find_listener(base::Scheduler& scheduler, const std::string& host, int port,
                       base::TimePoint deadline);

/// Whether any of the name's addresses is one of loopback. kInvalidArgument when the name does not
/// resolve.
base::Result<bool> resolves_to_loopback(const std::string& host);

}  // namespace gearshift::rendezvous::tcp
