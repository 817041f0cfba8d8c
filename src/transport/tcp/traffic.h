#pragma once

#include <atomic>
#include <cstdint>

#include "gearshift/transport/connection.h"
#include "gearshift/transport/matcher.h"

namespace gearshift::transport::tcp {

/// The counters behind Connection::traffic, and what shows that a link gets on. Thread-safety: all
/// methods.
struct TrafficCounters {
  std::atomic<std::uint64_t> bytes_sent{0};
  std::atomic<std::uint64_t> bytes_received{0};
  std::atomic<std::uint64_t> messages_sent{0};
  std::atomic<std::uint64_t> messages_received{0};
  /// Bytes of frames that carry a part of a body, more or less. Heartbeats have none: they show
  /// that a peer lives, and not that it gets anywhere.
  std::atomic<std::uint64_t> payload_sent{0};
  std::atomic<std::uint64_t> payload_received{0};

  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t amount) {
    counter.fetch_add(amount, std::memory_order_relaxed);
  }
  Traffic read() const {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    return {bytes_sent.load(kRelaxed), bytes_received.load(kRelaxed), messages_sent.load(kRelaxed),
            messages_received.load(kRelaxed)};
  }
  Movement moved() const {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    return {payload_sent.load(kRelaxed), payload_received.load(kRelaxed)};
  }
};

}  // namespace gearshift::transport::tcp
