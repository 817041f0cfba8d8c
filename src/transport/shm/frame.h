#pragma once

#include <cstddef>
#include <cstdint>

namespace gearshift::transport::shm {

/// What stands before every message in a ring; head and body follow without padding.
struct FrameHeader {
  enum class Kind : std::uint16_t {
    kMessage = 1,
    kGoodbye = 2,    ///< nothing follows, ever
    kLent = 3,       ///< the body is in memory of the sender: a LentBody follows the head instead
    kReturned = 4,   ///< the reader needs the lent body `tag` no more
    kMapped = 5,     ///< the reader has mapped the region `tag`: bodies in it may be lent
    kReclaimed = 6,  ///< no body in the region `tag` will be lent any more
  };

  std::uint64_t tag = 0;  ///< of a message; else a number
  std::uint64_t body_bytes : 40 = 0;
  std::uint64_t check : 24 = 0;  ///< of the tag
  std::uint32_t head_bytes = 0;
  std::uint16_t magic = kMagic;
  Kind kind = Kind::kMessage;

  static constexpr std::uint16_t kMagic = 0x6773;
};
static_assert(sizeof(FrameHeader) == 24);

/// Where a lent body is.
struct LentBody {
  std::uint64_t region = 0;
  std::uint64_t offset = 0;
  std::uint64_t ticket = 0;  ///< to be returned
};
static_assert(sizeof(LentBody) == 24);

/// Large bodies move in pieces of this size, so that the reader copies one while the writer
/// copies the next, and neither holds its lock for long.
inline constexpr std::size_t kPieceBytes = 64 << 10;

}  // namespace gearshift::transport::shm
