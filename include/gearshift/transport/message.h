#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/ids.h"

namespace gearshift::transport {

/// Names one message between two ranks.
///
/// Layout: channel (16 bits) · sequence (32) · part (16). A tag must not be in flight twice in one
/// direction of a connection: whoever owns a channel numbers its operations (`sequence`) and the
/// messages within one operation (`part`).
struct Tag {
  std::uint64_t value = 0;
  /// What both sides mean by the message, in 24 bits, so that neither takes another for it whose
  /// size fits by chance: where they differ, the receive fails (kMismatch). No part of the name.
  std::uint32_t check = 0;

  constexpr Tag() = default;
  constexpr Tag(std::uint16_t channel, std::uint32_t sequence, std::uint16_t part)
      : value((std::uint64_t{channel} << 48) | (std::uint64_t{sequence} << 16) | part) {}
  constexpr std::uint16_t channel() const { return static_cast<std::uint16_t>(value >> 48); }
  constexpr std::uint32_t sequence() const { return static_cast<std::uint32_t>(value >> 16); }
  constexpr std::uint16_t part() const { return static_cast<std::uint16_t>(value); }
  constexpr auto operator<=>(const Tag& other) const { return value <=> other.value; }
  constexpr bool operator==(const Tag& other) const { return value == other.value; }
};

/// Channels at or above this number are *services*: their messages go to the mailbox that is
/// registered for the channel (see Router), from whichever peer they come. Below it, messages go
/// to the receive that was posted for exactly this tag.
inline constexpr std::uint16_t kFirstService = 0xF000;
constexpr bool is_service(Tag tag) { return tag.channel() >= kFirstService; }

/// Well-known services.
inline constexpr std::uint16_t kHeartbeatService = 0xF000;
inline constexpr std::uint16_t kAbortService = 0xF001;
/// Model m's parameter-server shards listen on kServerService + m.
inline constexpr std::uint16_t kServerService = 0xF100;

/// Bounds on one message; a peer that announces more is cut off before anything is allocated.
inline constexpr std::uint32_t kMaxHeadBytes = 1U << 20;
inline constexpr std::uint64_t kMaxBodyBytes = 1ULL << 32;

/// What a mailbox delivers. `head` is the sender's small structured part, `body` its payload in
/// 64-byte-aligned memory that now belongs to the receiver.
struct Message {
  base::Rank from;
  Tag tag;
  std::vector<std::byte> head;
  base::Buffer body;
};

}  // namespace gearshift::transport
