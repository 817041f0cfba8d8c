#include "gearshift/base/error.h"

namespace gearshift::base {

const char* to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kMismatch:
      return "mismatch";
    case ErrorCode::kTimeout:
      return "timeout";
    case ErrorCode::kPeerLost:
      return "peer_lost";
    case ErrorCode::kAborted:
      return "aborted";
    case ErrorCode::kProtocol:
      return "protocol";
    case ErrorCode::kUnauthenticated:
      return "unauthenticated";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kDiverged:
      return "diverged";
    case ErrorCode::kClosed:
      return "closed";
  }
  return "unknown";
}

std::string Error::to_string() const { return std::string(base::to_string(code)) + ": " + message; }

}  // namespace gearshift::base
