#include <netinet/in.h>

#include <algorithm>
#include <cerrno>

#include "gearshift/rendezvous/tcp/factory.h"
#include "rendezvous/tcp/socket.h"

namespace gearshift::rendezvous::tcp {
namespace {

bool is_loopback(const Address& address) {
  if (address.storage.ss_family == AF_INET6) {
    const auto& ip = reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(&ip)) return ip.s6_addr[12] == 127;
    return IN6_IS_ADDR_LOOPBACK(&ip);
  }
  const auto ip = reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr.s_addr;
  return (ntohl(ip) >> 24) == 127;
}

}  // namespace

base::Result<std::string> local_address_towards(const std::string& host, int port) {
  GEARSHIFT_ASSIGN_OR_RETURN(const auto addresses, resolve(host, std::max(port, 1), false));
  base::Error last(base::ErrorCode::kIo, "'" + host + "' has no address");
  for (const Address& address : addresses) {
    // Connecting a datagram socket only asks the kernel for the route; nothing is sent.
    Fd fd(::socket(address.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!fd.valid() || ::connect(fd.get(), address.get(), address.size) != 0) {
      last = io_error("no route to " + text_of(address), errno);
      continue;
    }
    GEARSHIFT_ASSIGN_OR_RETURN(const Address local, bound_address(fd));
    return host_text(local);
  }
  return last;
}

base::Result<bool> resolves_to_loopback(const std::string& host) {
  GEARSHIFT_ASSIGN_OR_RETURN(const auto addresses, resolve(host, 1, false));
  return std::all_of(addresses.begin(), addresses.end(), is_loopback);
}

}  // namespace gearshift::rendezvous::tcp
