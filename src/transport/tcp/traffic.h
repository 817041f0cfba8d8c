#pragma once

#include <atomic>
#include <cstdint>

#include "gearshift/transport/connection.h"

namespace gearshift::transport::tcp {

/// The counters behind Connection::traffic. Thread-safety: all methods.
struct TrafficCounters {
  std::atomic<std::uint64_t> bytes_sent{0};
  std::atomic<std::uint64_t> bytes_received{0};
  std::atomic<std::uint64_t> messages_sent{0};
  std::atomic<std::uint64_t> messages_received{0};

  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t amount) {
    counter.fetch_add(amount, std::memory_order_relaxed);
  }
  Traffic read() const {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    return {bytes_sent.load(kRelaxed), bytes_received.load(kRelaxed), messages_sent.load(kRelaxed),
            messages_received.load(kRelaxed)};
  }
};

}  // namespace gearshift::transport::tcp
