#pragma once

#include <algorithm>
#include <stop_token>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"

namespace gearshift::transport {

/// How often who waits for a peer looks whether it has been told to stop.
inline constexpr base::Duration kLookForStop = std::chrono::milliseconds(50);

inline base::Status go_on_unless(const std::stop_token& stop) {
  if (!stop.stop_requested()) return {};
  return base::Error(base::ErrorCode::kAborted, "told to stop while it waited for the peer");
}

/// What of the time that is left may be waited before the next look.
inline base::Duration until_next_look(base::Duration left, const std::stop_token& stop) {
  return stop.stop_possible() ? std::min(left, kLookForStop) : left;
}

}  // namespace gearshift::transport
