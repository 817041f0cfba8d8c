#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gearshift/base/serial.h"
#include "rendezvous/limits.h"
#include "rendezvous/tcp/socket.h"

namespace gearshift::rendezvous::tcp {

/// A frame is its length (32 bits) and so many bytes. Requests: operation (8) · key, or name
/// (attend), or "" (absentee) · value (set), amount (add, 64), milliseconds to wait (get, 64), or 0
/// (64). Replies: 0 · text, or error code + 1 (8) · message. Integers are little-endian.
enum class Operation : std::uint8_t { kSet = 1, kGet = 2, kAdd = 3, kAttend = 4, kAbsentee = 5 };

inline constexpr std::uint32_t kMaxFrame = kMaxKeyBytes + kMaxValueBytes + 64;
/// How long the rest of a frame may take once it has begun, or a handshake.
inline constexpr base::Duration kFrameTime = std::chrono::seconds(10);
/// The longest wait that one get asks of the server; longer ones ask again, so that a server that
/// froze is noticed.
inline constexpr base::Duration kGetSlice = std::chrono::seconds(10);

inline base::Status send_frame(Socket& socket, base::ConstBytes payload, base::TimePoint deadline) {
  base::Writer out;
  out.put_bytes(payload);
  return socket.write_all(out.view(), deadline);
}

inline base::Result<std::vector<std::byte>> receive_frame(Socket& socket,
                                                          base::TimePoint deadline) {
  std::uint32_t size = 0;
  GEARSHIFT_RETURN_IF_ERROR(socket.read_exact(base::writable_bytes_of(size), deadline));
  if (size > kMaxFrame) {
    return base::Error(base::ErrorCode::kProtocol, "a frame of " + std::to_string(size) +
                                                       " bytes is announced; at most " +
                                                       std::to_string(kMaxFrame) + " are allowed");
  }
  std::vector<std::byte> payload(size);
  GEARSHIFT_RETURN_IF_ERROR(socket.read_exact(payload, deadline));
  return payload;
}

/// What both sides of the store's handshake say; the server also which one it is, and whether it
/// lasts.
inline transport::Hello store_hello(std::uint64_t server = 0, bool lasting = false) {
  transport::Hello hello;
  hello.purpose = transport::kPurposeStore;
  hello.link = server;
  hello.stream = lasting ? 1 : 0;
  return hello;
}

}  // namespace gearshift::rendezvous::tcp
