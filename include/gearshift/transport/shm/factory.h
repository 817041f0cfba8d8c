#pragma once

#include <memory>

#include "gearshift/transport/transport.h"

namespace gearshift::transport::shm {

struct Options {
  /// Bytes of the ring in each direction between two processes.
  std::size_t ring_bytes = 1 << 20;
  /// Of Connection::send_lent: smaller bodies are cheaper to copy than to return.
  std::size_t least_lent_bytes = 16 << 10;
};

/// Shared memory between processes of one host and one user. Errors: kUnsupported with the reason
/// where the kernel lacks memfd or abstract Unix sockets.
base::Result<std::unique_ptr<Transport>> create(base::Scheduler& scheduler,
                                                std::shared_ptr<Router> router, Identity identity,
                                                Options options = {});

}  // namespace gearshift::transport::shm
