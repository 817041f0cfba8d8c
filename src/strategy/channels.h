#pragma once

#include <cstdint>

#include "gearshift/group/group.h"
#include "gearshift/strategy/replica.h"
#include "gearshift/transport/message.h"

namespace gearshift::strategy {

/// Servers of one model before their channels are used again.
inline constexpr std::uint16_t kMaxIncarnations = 16;

/// Channels of model m's groups, which are used again when a model has been stopped: whoever makes
/// the next one waits for all ranks, and so for the end of what they did before. A session's groups
/// and the program's own have the channels below.
constexpr std::uint16_t reducer_channel(std::uint16_t m) {
  return static_cast<std::uint16_t>(0x0100 + m * 8);
}
static_assert(reducer_channel(0) > group::kLastUserChannel);
constexpr std::uint16_t control_channel(std::uint16_t m) {
  return static_cast<std::uint16_t>(reducer_channel(m) + 1);
}
constexpr std::uint16_t server_channel(std::uint16_t m) {
  return static_cast<std::uint16_t>(reducer_channel(m) + 2);
}
constexpr std::uint16_t shards_channel(std::uint16_t m) {
  return static_cast<std::uint16_t>(reducer_channel(m) + 3);
}

/// Of the n-th lane, n ≥ 1, beside the reducer's own channel.
constexpr std::uint16_t lane_channel(std::uint16_t m, int lane) {
  return static_cast<std::uint16_t>(reducer_channel(m) + 3 + lane);
}

/// Of the control values of All-Reduce, where they have a channel of their own.
constexpr std::uint16_t round_channel(std::uint16_t m) {
  return static_cast<std::uint16_t>(reducer_channel(m) + 7);
}

/// Number by which parameter-server messages name a model's n-th server.
constexpr std::uint16_t wire_model(std::uint16_t model, std::int64_t incarnation) {
  return static_cast<std::uint16_t>(model * kMaxIncarnations + incarnation % kMaxIncarnations);
}

/// Orders to a dedicated server process, and what its shard 0 tells worker 0 of model m.
inline constexpr std::uint16_t kServerHostService = 0xF010;
constexpr std::uint16_t commit_news_service(std::uint16_t m) {
  return static_cast<std::uint16_t>(0xF020 + m);
}

}  // namespace gearshift::strategy
