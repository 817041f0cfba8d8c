#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"

namespace gearshift::membership {

/// How far a rank has come: the whole of a heartbeat, and a part of every notice.
struct ProgressNote {
  std::int64_t step = 0;
  std::string operation = "idle";
  double seconds_in_operation = 0;

  /// "in all_reduce bucket 3 at step 41", "idle after push at step 7".
  std::string phrase() const;
};

std::vector<std::byte> encode(const ProgressNote& note);
base::Result<ProgressNote> decode_progress(base::ConstBytes bytes);

/// Values are part of the wire protocol: append only.
enum class NoticeKind : std::uint8_t {
  kFailure = 1,  ///< the group has ended: code, culprit, what
  kLeaving = 2,  ///< the sender stops watching and will close in an orderly way
  kLost = 3,     ///< within a process only: the connection to `culprit` broke, `what` says why
  kFail = 4,     ///< within a process only: this rank reports an error of its own
  kWake = 5,     ///< within a process only: look at the flags
};

/// What goes through the abort service. News of one process to itself takes the same queue, so
/// that a peer's notice is always seen before the end of the connection that brought it.
struct Notice {
  NoticeKind kind = NoticeKind::kWake;
  base::ErrorCode code = base::ErrorCode::kAborted;
  int culprit = -1;
  std::string what;
  ProgressNote progress;  ///< the sender's
};

std::vector<std::byte> encode(const Notice& notice);
base::Result<Notice> decode_notice(base::ConstBytes bytes);

}  // namespace gearshift::membership
