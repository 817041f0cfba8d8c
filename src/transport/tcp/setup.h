#pragma once

#include <cstdint>
#include <vector>

#include "gearshift/transport/transport.h"
#include "transport/tcp/socket.h"

namespace gearshift::transport::tcp {

/// What passes on each socket between the handshake and the first frame: the connecting side says
/// how many sockets make the link, the accepting side answers, when it has them all, whether it
/// takes the link.
struct LinkSetup {
  static constexpr std::uint32_t kMaxStreams = 64;
  std::uint32_t streams = 0;
};
enum class Verdict : std::uint32_t { kAccepted = 1, kDuplicate = 2, kSameRank = 3, kInvalid = 4 };

/// What a peer is told when it is refused; empty for kAccepted.
std::string explain(Verdict verdict);

/// The connecting side: opens and proves `streams` sockets to `peer` and has them accepted. `zone`
/// and `stop`: see Caller.
base::Result<std::vector<base::Fd>> open_link(const base::Scheduler& scheduler,
                                              const Identity& identity, base::Rank peer,
                                              const std::string& address, int streams,
                                              base::TimePoint deadline, std::uint32_t zone = 0,
                                              const std::stop_token& stop = {});

}  // namespace gearshift::transport::tcp
