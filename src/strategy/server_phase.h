#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "gearshift/ps/client.h"
#include "gearshift/ps/shard.h"
#include "gearshift/strategy/config.h"
#include "gearshift/strategy/plan.h"
#include "gearshift/strategy/replica.h"
#include "strategy/flow_limits.h"
#include "strategy/memory.h"

namespace gearshift::strategy {

struct ServerPhaseOptions {
  ParameterServer config;
  ps::OptimizerSpec optimizer;
  std::uint16_t model = 0;
  std::int64_t incarnation = 0;  ///< how many server phases this model had before
  std::int64_t first_step = 0;
  bool phantom = false;  ///< see ReplicaOptions
  /// Called on worker 0 for each commit; see ps::ShardOptions::on_commit.
  std::function<std::optional<std::int64_t>(const ps::CommitInfo&)> on_commit;
  std::function<void(const base::Error&)> on_failure;
};

/// The time during which servers own the parameters: this worker's client, and the shard that this
/// process hosts, if any. Not thread-safe (shards serve on tasks of their own).
class ServerPhase {
 public:
  /// Collective over the workers, whose parameters and optimizer state must be equal: every shard
  /// adopts its part from the memory of the process it lives in; nothing is sent, unless the
  /// servers are dedicated processes.
  static base::Result<std::unique_ptr<ServerPhase>> open(
      const Environment& environment, const BucketPlan& plan, BucketMemory& memory,
      group::Group& control, ServerPhaseOptions options, const std::vector<ps::StateEntry>& state);
  ~ServerPhase();

  ps::Client& client() { return *client_; }
  const ParameterServer& config() const { return options_.config; }
  /// Stops the shard of this process; collective for dedicated servers (rank 0 tells them). Call
  /// when no worker uses the servers any more.
  base::Status close();
  /// Of the shard in this process.
  std::optional<ps::ShardStats> shard_stats() const;
  bool is_synchronous() const { return options_.config.consistency.is_synchronous(); }
  /// Takes in what dedicated servers told this worker, and answers; cheap when there is nothing.
  base::Status handle_news();

 private:
  ServerPhase(const Environment& environment, const BucketPlan& plan, BucketMemory& memory,
              ServerPhaseOptions options);
  base::Status start_local_shard(const std::vector<ps::StateEntry>& state);
  base::Status start_dedicated(const std::vector<ps::StateEntry>& state);
  ps::ShardOptions shard_options(int index) const;

  Environment environment_;
  const BucketPlan& plan_;
  BucketMemory& memory_;
  ServerPhaseOptions options_;
  std::uint16_t wire_model_;
  bool dedicated_;
  std::vector<base::Rank> servers_;
  std::shared_ptr<const ps::Layout> layout_;
  std::unique_ptr<ps::Client> client_;
  std::unique_ptr<ps::Shard> shard_;
  std::optional<FlowLimits> flow_;  ///< while servers are used
};

}  // namespace gearshift::strategy
