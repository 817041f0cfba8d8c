#include <netinet/in.h>

#include <algorithm>

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

base::Result<bool> resolves_to_loopback(const std::string& host) {
  GEARSHIFT_ASSIGN_OR_RETURN(const auto addresses, resolve(host, 1, false));
  return std::any_of(addresses.begin(), addresses.end(), is_loopback);
}

}  // namespace gearshift::rendezvous::tcp
