#pragma once

#include <cstddef>
#include <cstdint>

namespace gearshift::transport::shm {

/// What stands before every message in a ring; head and body follow without padding.
struct FrameHeader {
  enum class Kind : std::uint16_t {
    kMessage = 1,
    kGoodbye = 2,  ///< nothing follows, ever
  };

  std::uint64_t tag = 0;
  std::uint64_t body_bytes = 0;
  std::uint32_t head_bytes = 0;
  std::uint16_t magic = kMagic;
  Kind kind = Kind::kMessage;

  static constexpr std::uint16_t kMagic = 0x6773;
};
static_assert(sizeof(FrameHeader) == 24);

/// Large bodies move in pieces of this size, so that the reader copies one while the writer
/// copies the next, and neither holds its lock for long.
inline constexpr std::size_t kPieceBytes = 64 << 10;

}  // namespace gearshift::transport::shm
