#pragma once

#include <cstdint>
#include <string>

#include "gearshift/base/bytes.h"
#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"

namespace gearshift::transport {

/// To be raised with every change of what travels between processes.
inline constexpr std::uint32_t kProtocolVersion = 5;

/// A blocking byte stream under a deadline: what the handshake runs on (TCP or Unix socket).
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  virtual base::Status read_exact(base::Bytes into, base::TimePoint deadline) = 0;
  virtual base::Status write_all(base::ConstBytes from, base::TimePoint deadline) = 0;
};

/// What each side tells the other, all of it covered by the proof.
struct Hello {
  std::uint32_t version = kProtocolVersion;
  std::uint32_t purpose = 0;  ///< data link, store client, …: refuses crossed wires
  base::Generation generation{1};
  base::Rank rank;           ///< sender
  std::uint32_t stream = 0;  ///< which of several sockets of one link
  std::uint64_t link = 0;    ///< chosen by the connecting side; equal for all streams of a link
};

inline constexpr std::uint32_t kPurposeLink = 0x4C494E4B;
inline constexpr std::uint32_t kPurposeStore = 0x53544F52;

/// Mutual challenge–response: each side sends a greeting (Hello and a 32-byte nonce), then
/// HMAC-SHA-256(token, role ‖ own greeting ‖ peer greeting), the client first; constant-time
/// comparison. The token itself never travels. All messages have a fixed size, so nothing is
/// allocated for a stranger. Errors: kUnauthenticated (proof or magic wrong), kMismatch (version,
/// purpose or generation differs; says both), kIo, and those of the stream.
base::Result<Hello> handshake_as_client(ByteStream& stream, const Hello& mine,
                                        const std::string& token, base::TimePoint deadline);
base::Result<Hello> handshake_as_server(ByteStream& stream, const Hello& mine,
                                        const std::string& token, base::TimePoint deadline);

/// 32 random bytes as 64 hexadecimal characters, from the system's generator.
std::string make_token();

}  // namespace gearshift::transport
