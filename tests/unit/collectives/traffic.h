#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <ostream>
#include <vector>

#include "world.h"

namespace gearshift::collectives::testing {

inline std::uint64_t segments_of(std::uint64_t bytes) {
  return std::max<std::uint64_t>(1, (bytes + 262'143) / 262'144);
}

struct Cost {
  std::uint64_t messages_sent = 0;
  std::uint64_t messages_received = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  bool operator==(const Cost&) const = default;
};
inline void PrintTo(const Cost& c, std::ostream* out) {
  *out << c.messages_sent << " messages, " << c.bytes_sent << " bytes sent, " << c.messages_received
       << ", " << c.bytes_received << " received";
}

inline Cost cost_of(const transport::Traffic& before, const transport::Traffic& after) {
  return {after.messages_sent - before.messages_sent,
          after.messages_received - before.messages_received, after.bytes_sent - before.bytes_sent,
          after.bytes_received - before.bytes_received};
}

/// The traffic that `body` causes on each rank of a world that knows of these hosts. One world of a
/// size serves all measurements until a test fails: 64 ranks connect for longer than they talk.
std::vector<Cost> measure(int size, const std::function<void(group::Group&)>& body,
                          const std::vector<int>& host_of = {});

}  // namespace gearshift::collectives::testing
