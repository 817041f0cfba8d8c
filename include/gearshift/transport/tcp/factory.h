#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "gearshift/transport/transport.h"

namespace gearshift::transport::tcp {

struct Options {
  /// Address to listen on. Port 0: the system picks.
  std::string host = "127.0.0.1";
  int port = 0;
  /// Sockets per peer; a body larger than `stripe_bytes` is spread over them.
  int streams = 2;
  std::size_t stripe_bytes = 256 << 10;
  /// What decides how much a connection may have under way: "system", or a name that the system
  /// knows ("cubic", "bbr", "dctcp" …). "auto": the system's choice, but CUBIC instead of BBR for
  /// peers within 5 ms (docs/decisions/0014).
  std::string congestion_control = "auto";
};

/// Bodies above Options::stripe_bytes travel in chunks of at most this size, between which small
/// messages may pass.
inline constexpr std::uint32_t kMaxChunkBytes = 1U << 20;

/// What the kernel may hold of a stream beyond what is in flight. More would stand before messages
/// that are to overtake, and fall out of the processor's cache before it is sent.
inline constexpr std::uint64_t kUnsentBytes = 256U << 10;

/// kInvalidArgument for a number of streams that is not possible, or a congestion control that this
/// process may not use.
base::Status validate(const Options& options);

/// Listens at once. Errors: as `validate`; kIo with the address and the reason.
base::Result<std::unique_ptr<Transport>> create(base::Scheduler& scheduler,
                                                std::shared_ptr<Router> router, Identity identity,
                                                Options options = {});

}  // namespace gearshift::transport::tcp
