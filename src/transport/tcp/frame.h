#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "gearshift/base/result.h"
#include "gearshift/transport/message.h"
#include "gearshift/transport/tcp/factory.h"

namespace gearshift::transport::tcp {

enum class FrameKind : std::uint32_t {
  kMessage = 1,  ///< head and body of one message
  kChunk = 2,    ///< one piece of a body that is spread over the streams; the first has the head
  kBye = 3,      ///< nothing more will come on this stream
};

/// Precedes everything on a stream, as it lies in memory (little-endian machines only).
/// head_bytes of head follow, then the body or the chunk of it.
struct Frame {
  static constexpr std::uint32_t kMagic = 0x31465347;  ///< "GSF1"

  std::uint32_t magic = kMagic;
  FrameKind kind = FrameKind::kMessage;
  std::uint64_t tag = 0;
  std::uint64_t body_bytes = 0;  ///< of the whole message
  std::uint64_t message = 0;     ///< kChunk: number of the message, per direction
  std::uint32_t head_bytes = 0;
  std::uint32_t chunk_bytes = 0;  ///< kChunk: size of all chunks but the last
  std::uint32_t chunk = 0;        ///< kChunk: which of them this is
  std::uint32_t check = 0;        ///< of the tag

  std::uint64_t chunk_count() const { return (body_bytes + chunk_bytes - 1) / chunk_bytes; }
  /// Where this frame's part of the body lies in it.
  std::uint64_t part_offset() const {
    return kind == FrameKind::kChunk ? std::uint64_t{chunk} * chunk_bytes : 0;
  }
  std::uint64_t part_bytes() const {
    if (kind != FrameKind::kChunk) return body_bytes;
    const std::uint64_t rest = body_bytes - part_offset();
    return rest < chunk_bytes ? rest : chunk_bytes;
  }
  Tag message_tag() const {
    Tag t;
    t.value = tag;
    t.check = check;
    return t;
  }
};
static_assert(sizeof(Frame) == 48 && std::is_trivially_copyable_v<Frame>);
static_assert(std::endian::native == std::endian::little);

inline constexpr std::uint64_t kMaxChunks = 1U << 16;

/// Whether a correct peer can have sent this; nothing is allocated before. kProtocol otherwise.
base::Status check(const Frame& frame);

}  // namespace gearshift::transport::tcp
