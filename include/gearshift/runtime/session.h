#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/collectives/survey.h"
#include "gearshift/group/group.h"
#include "gearshift/membership/monitor.h"
#include "gearshift/strategy/config.h"
#include "gearshift/strategy/replica.h"

namespace gearshift::runtime {

/// How this process finds its job. `from_environment` reads GEARSHIFT_RANK, _WORLD_SIZE, _SERVERS,
/// _RDZV, _TOKEN, _TOKEN_FILE, _TIMEOUT, _NNODES, _INTERFACE, _TRANSPORTS, _TCP_CONGESTION,
/// _CALIBRATE, and, without them, what mpirun, mpiexec, srun and torchrun set (on one host; several
/// hosts need GEARSHIFT_RDZV and GEARSHIFT_TOKEN), or RANK, WORLD_SIZE, MASTER_ADDR and
/// MASTER_PORT, whoever set them (several hosts need GEARSHIFT_TOKEN).
struct SessionOptions {
  int rank = 0;
  int world_size = 1;  ///< processes: workers and dedicated servers
  int servers = 0;     ///< the last `servers` ranks
  int nnodes = 1;
  /// "tcp://host:port" (rank 0 serves it, unless a store runs there already), "file:///dir"; empty:
  /// world of one.
  std::string rdzv{};
  std::string token{};
  /// What is longer than `kLongestTimeout` counts as that: as long as it takes.
  base::Duration timeout = std::chrono::seconds(30);
  static constexpr base::Duration kLongestTimeout = std::chrono::hours(24 * 365);
  std::string interface {};  ///< address to listen on; empty: by the route to the rendezvous
  /// See transport::tcp::Options::congestion_control.
  std::string congestion_control = "auto";
  /// Names of transports allowed, in no order; empty: all that are viable.
  std::vector<std::string> transports{};
  /// When the speeds of links are measured at the start (see collectives/survey.h and
  /// docs/decisions/0007). kIfSeveralHosts also uses what an earlier job of the same processes has
  /// left in the cache.
  collectives::Measure measure = collectives::Measure::kIfSeveralHosts;
  /// Asked about ten times a second while other processes are waited for at the start, on the task
  /// that called `Session::create`, and at the same time on others that it has made; true, on the
  /// first, ends that with kAborted, and the others are told. Empty: nothing does.
  std::function<bool()> interrupted{};
  /// Asked every few seconds while nobody answers at `rdzv`, on the same task: where to look from
  /// then on. Empty: `rdzv` stands.
  std::function<std::string()> rdzv_now{};

  static base::Result<SessionOptions> from_environment();
  /// GEARSHIFT_CALIBRATE: "auto" (kIfSeveralHosts; also when unset), "off" or "force".
  static base::Result<collectives::Measure> measure_from_environment();
  /// GEARSHIFT_TCP_CONGESTION, "auto" when it is unset.
  static std::string congestion_control_from_environment();
  /// The strategy that the job was started with (`gearshift run --strategy`, a job file, or
  /// GEARSHIFT_STRATEGY under any launcher), for programs that leave the choice to whoever starts
  /// them, with GEARSHIFT_TOTAL_STEPS; none when the job was started without.
  static base::Result<std::optional<strategy::Strategy>> strategy_from_environment();
  base::Status validate() const;
  /// kAborted once `interrupted` says so.
  base::Status go_on() const;
};

/// One process's part in a job: rendezvous, connections, failure detection, and the models.
///
/// Thread-safety: accessors from anywhere; collective calls in the same order on all ranks, one at
/// a time.
/// Lifetime: it outlives the replicas that it made, groups made from `workers()`, and buffers that
/// were allocated on them (collectives::SharedBuffer). What Replica::memory() returns may stay.
class Session {
 public:
  /// Collective over the job. A world of one needs nothing and nobody. When its session has ended,
  /// a process, or one that is started after it with the same rank, may make the next one at the
  /// same rendezvous, if all processes of the job do; at a store that none of them serves
  /// (`gearshift store`) it may not (kUnsupported).
  static base::Result<std::unique_ptr<Session>> create(const SessionOptions& options);
  virtual ~Session() = default;

  virtual base::Rank rank() const = 0;  ///< among the workers; for a server: its world rank
  virtual int world_size() const = 0;   ///< workers
  virtual int servers() const = 0;
  virtual bool is_server() const = 0;
  virtual base::Duration timeout() const = 0;

  /// The workers' group for the user's own collectives (collectives/collectives.h). Not for
  /// servers.
  virtual group::Group& workers() = 0;
  virtual membership::Monitor* monitor() = 0;  ///< null in a world of one
  /// An error of an operation on `workers()`, told as the failure contract wants it.
  virtual base::Error explain(const base::Error& error) = 0;

  /// Collective over the workers. kInvalidArgument in a dedicated server. The strategy is the one
  /// in `options`; where the job was started with another (GEARSHIFT_STRATEGY), a warning says so.
  virtual base::Result<std::unique_ptr<strategy::Replica>> distribute(
      strategy::ReplicaOptions options) = 0;
  /// A dedicated server's whole life. Once; kClosed again, and after `close`.
  virtual base::Status serve() = 0;

  virtual transport::Traffic traffic() const = 0;
  /// Where every rank is: what SIGUSR1 prints.
  virtual std::string hang_report() const = 0;
  /// Tells the others that this process failed, then breaks all links.
  virtual void fail(const base::Error& error) = 0;
  /// Orderly end. Replicas must have been stopped, and may not be used any more. Idempotent.
  virtual base::Status close() = 0;
};

}  // namespace gearshift::runtime
