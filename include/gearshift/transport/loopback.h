#pragma once

#include <memory>

#include "gearshift/transport/connection.h"
#include "gearshift/transport/router.h"

namespace gearshift::transport {

/// A connection from a rank to itself: messages go straight to the own matcher and mailboxes, so
/// that a server and a worker of one process talk like any others. Phantoms pass. No traffic is
/// counted, since nothing leaves the process; the copy of a body is work (Scheduler::work) of the
/// task that sends.
std::unique_ptr<Connection> make_loopback(std::shared_ptr<Router> router, base::Rank self);

}  // namespace gearshift::transport
