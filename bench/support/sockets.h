#pragma once

#include <netinet/in.h>

#include <cstddef>

namespace gearshift::bench {

/// TCP over IPv4, blocking. All functions throw std::runtime_error when something fails.

/// From MASTER_ADDR and MASTER_PORT.
sockaddr_in address_of_rank_0();

/// A socket that listens at `address`; its port may be 0.
int listen_at(const sockaddr_in& address);
int accept_one(int listener);
/// Tries for ten seconds.
int connect_to(const sockaddr_in& address);
/// Of this end of a socket.
sockaddr_in local_address(int fd);
void disable_delay(int fd);

void send_all(int fd, const void* data, std::size_t size);
void receive_all(int fd, void* data, std::size_t size);

/// Throws with what errno says.
[[noreturn]] void fail(const char* what);

}  // namespace gearshift::bench
