#pragma once

#include <string>

#include "gearshift/transport/transport.h"
#include "transport/shm/control.h"
#include "transport/shm/link.h"

namespace gearshift::transport::shm {

/// Listens on a new abstract socket with a random name. It has no file: nothing is left behind.
struct Listener {
  base::Fd socket;
  std::string name;
};
base::Result<Listener> listen_anywhere();

/// A connected socket, or nothing when the listener has none (any more).
base::Fd accept_one(int listener);

/// Whether the process at the other end belongs to this one's user; kUnauthenticated otherwise.
base::Status check_user(int socket);

/// The two halves of making a link: proves the token in both directions, then the connecting side,
/// which checks the user before, makes the memory of the rings and passes it on. The accepting half
/// borrows the socket, leaves that part empty, and leaves the check, and the answer (kReady, or
/// kAbort with the reason), to its caller. Errors: those of the handshake, kIo, kPeerLost,
/// kTimeout; where `stop` is requested, kAborted.
base::Result<LinkParts> connect_link(const base::Scheduler& scheduler, const Identity& identity,
                                     base::Rank peer, const std::string& socket_name,
                                     std::size_t ring_bytes, base::TimePoint deadline,
                                     const std::stop_token& stop = {});
base::Result<LinkParts> accept_link(const base::Scheduler& scheduler, const Identity& identity,
                                    int socket, base::TimePoint deadline);

}  // namespace gearshift::transport::shm
