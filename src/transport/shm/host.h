#pragma once

#include <string>

#include "gearshift/base/result.h"

namespace gearshift::transport::shm {

/// Names everything that two processes must share to reach each other by abstract Unix sockets
/// and to know each other's user id: the running kernel, the network and user namespaces, and the
/// user. Equal strings mean "reachable". kUnsupported when /proc does not tell.
base::Result<std::string> host_identity();

/// "<scheme>:<host identity>:<socket name>", the address that a transport publishes.
struct Address {
  std::string host;
  std::string socket_name;

  std::string to_string() const;
  static base::Result<Address> parse(const std::string& text);
};

}  // namespace gearshift::transport::shm
