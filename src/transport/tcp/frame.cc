#include "transport/tcp/frame.h"

#include <string>

namespace gearshift::transport::tcp {
namespace {

base::Error protocol(const std::string& what) {
  return {base::ErrorCode::kProtocol, "invalid frame: " + what};
}

}  // namespace

base::Status check(const Frame& frame) {
  if (frame.magic != Frame::kMagic) return protocol("no magic");
  if (frame.head_bytes > kMaxHeadBytes) {
    return protocol("head of " + std::to_string(frame.head_bytes) + " bytes");
  }
  if (frame.body_bytes > kMaxBodyBytes) {
    return protocol("body of " + std::to_string(frame.body_bytes) + " bytes");
  }
  switch (frame.kind) {
    case FrameKind::kMessage:
      return {};
    case FrameKind::kBye:
      if (frame.head_bytes != 0 || frame.body_bytes != 0) return protocol("good-bye with content");
      return {};
    case FrameKind::kChunk:
      if (frame.chunk_bytes == 0 || frame.body_bytes == 0 || frame.chunk_count() > kMaxChunks ||
          frame.chunk >= frame.chunk_count()) {
        return protocol("impossible chunk");
      }
      if (frame.chunk != 0 && frame.head_bytes != 0) return protocol("a second head");
      return {};
  }
  return protocol("unknown kind " + std::to_string(static_cast<std::uint32_t>(frame.kind)));
}

}  // namespace gearshift::transport::tcp
