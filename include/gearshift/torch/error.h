#pragma once

#include <stdexcept>
#include <utility>

#include "gearshift/base/error.h"
#include "gearshift/base/result.h"

namespace gearshift::torch {

/// An error of gearshift's as an exception. Calls of this library return a Result or a Status;
/// backward(), whose signature is libtorch's, throws this instead, and `or_throw` does for programs
/// that would rather have exceptions everywhere.
class Failure : public std::runtime_error {
 public:
  explicit Failure(base::Error error)
      : std::runtime_error(error.to_string()), error_(std::move(error)) {}

  const base::Error& error() const noexcept { return error_; }
  /// What this process should end with: 75 tells `gearshift run` that it suffers from another
  /// rank's end or silence and is not to blame; else 1.
  int exit_code() const noexcept {
    using base::ErrorCode;
    switch (error_.code) {
      case ErrorCode::kPeerLost:
      case ErrorCode::kAborted:
      case ErrorCode::kClosed:
      case ErrorCode::kTimeout:
        return 75;
      default:
        return 1;
    }
  }

 private:
  base::Error error_;
};

/// The value of a result, or its error as a Failure.
template <typename T>
T or_throw(base::Result<T> result) {
  if (!result) throw Failure(result.error());
  return std::move(result).value();
}
inline void or_throw(const base::Status& status) {
  if (!status) throw Failure(status.error());
}

}  // namespace gearshift::torch
