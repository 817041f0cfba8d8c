#pragma once

#include <cstdint>
#include <string>

namespace gearshift::runtime {

/// What this process, as one rank, has left at a rendezvous: it may join a job there again, and
/// must not take what is left of the last session for the next one.
struct Former {
  int sessions = 0;          ///< that have ended
  std::uint64_t server = 0;  ///< the store's, of the last one (see rendezvous/tcp/factory.h)

  static Former find(const std::string& rdzv, int rank);
  /// A session has ended. Thread-safe, as `find`.
  static void note(const std::string& rdzv, int rank, std::uint64_t server);
};

}  // namespace gearshift::runtime
