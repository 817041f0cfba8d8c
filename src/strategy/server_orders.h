#pragma once

#include <cstdint>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/ps/shard.h"

namespace gearshift::strategy {

/// What worker 0 orders a dedicated server process to do (service kServerHostService).
enum class ServerOrder : unsigned char {
  kOpen = 1,        ///< start a shard: OpenOrder, as the message's body
  kClose = 2,       ///< stop it: wire model
  kLeaveAfter = 3,  ///< announce the end of the phase: wire model, step
  kBye = 4,         ///< from every worker: it is done
};

struct OpenOrder {
  std::uint16_t model = 0;
  std::int64_t first_step = 0;
  bool report_commits = false;  ///< shard 0: send commit news to worker 0
  bool phantom = false;         ///< parameters and state are phantoms
  ps::ShardOptions options;     ///< without its functions
};

std::vector<std::byte> pack_open(const OpenOrder& order);
base::Result<OpenOrder> unpack_open(base::ConstBytes bytes);

std::vector<std::byte> pack_news(const ps::CommitInfo& info);
base::Result<ps::CommitInfo> unpack_news(base::ConstBytes bytes);

}  // namespace gearshift::strategy
