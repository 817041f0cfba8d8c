#pragma once

#include <string>

#include "transport/tcp/socket.h"

namespace gearshift::transport::tcp {

/// What the system gives to new sockets.
std::string system_congestion_control();

/// Whether the kernel lets this process use what Options::congestion_control names. Errors:
/// kInvalidArgument, with what it may use.
base::Status check_congestion_control(const std::string& wanted);

/// For a socket that is not connected yet, or listens: CUBIC where the system's choice is BBR. The
/// kernel goes on pacing what has once been BBR's.
void begin_with_cubic(const base::Fd& fd);

/// Of a connected socket; zero: unknown.
base::Duration round_trip(const base::Fd& fd);

/// Has the kernel use what Options::congestion_control names for a socket that began with CUBIC and
/// is connected to a peer that far away.
void choose_congestion_control(const base::Fd& fd, const std::string& wanted,
                               base::Duration round_trip);

}  // namespace gearshift::transport::tcp
