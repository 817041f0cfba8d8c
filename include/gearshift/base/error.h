#pragma once

#include <string>
#include <utility>

namespace gearshift::base {

/// What went wrong, coarse enough to decide on. The text says the rest.
enum class ErrorCode {
  kInvalidArgument,  ///< the caller's values are wrong; nothing was changed
  kMismatch,         ///< ranks disagree on something that must be equal
  kTimeout,          ///< a deadline passed without progress
  kPeerLost,         ///< a peer process died, froze or closed its connection
  kAborted,          ///< this process gave up because another rank reported an error
  kProtocol,         ///< bytes arrived that no correct peer sends
  kUnauthenticated,  ///< a peer could not prove that it knows the job token
  kIo,               ///< the operating system refused (disk, socket, memory)
  kUnsupported,      ///< the combination asked for does not exist; the text names alternatives
  kDiverged,         ///< training went non-finite or the loss ran away
  kClosed,           ///< the object was shut down in an orderly way
};

/// Stable lower-case name of a code, for logs and for the Python exception mapping.
const char* to_string(ErrorCode code);

/// An error with a message for humans. `culprit` is the rank that caused it, or -1.
struct [[nodiscard]] Error {
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;
  int culprit = -1;

  Error(ErrorCode c, std::string m, int who = -1) : code(c), message(std::move(m)), culprit(who) {}

  /// The same error with `what` put before its message: "what: message".
  Error within(const std::string& what) const { return {code, what + ": " + message, culprit}; }

  /// "peer_lost: rank 2 died ...".
  std::string to_string() const;
};

}  // namespace gearshift::base
