#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/sim/workload.h"

namespace gearshift::sim {

/// What two ranks of one host need to exchange a message, and how fast a host works on messages.
/// Bytes per second and seconds.
struct HostModel {
  double local_bandwidth = 6e9;   ///< between processes of the host, each pair
  double local_latency = 2e-6;    ///< one way, between processes of the host
  double per_message = 5e-6;      ///< processor time that a message costs, at either end
  double reduce_bandwidth = 8e9;  ///< bytes of gradient combined per second
  double update_bandwidth = 2e9;  ///< bytes of parameters updated per second by a server
  double copy_bandwidth = 8e9;    ///< bytes copied per second within a process

  bool operator==(const HostModel&) const = default;
};

struct Host {
  std::string name;
  std::string zone;          ///< the switch that it hangs on; "": the root
  int workers = 1;           ///< worker processes on it
  int servers = 0;           ///< dedicated server processes on it
  double speed = 1;          ///< relative to the machine on which the workload was profiled
  double bandwidth = 125e6;  ///< of its interface, bytes per second of payload, each way
  double latency = 25e-6;    ///< of its interface, seconds; a message crosses two interfaces
  /// Bytes that the interface, once it was idle, lets through at once, each way: the size of the
  /// token bucket, where one limits the rate (tc tbf, many clouds).
  std::int64_t burst = 0;
  /// The buffer of the switch's port to this host, in seconds that the port takes to empty it. It
  /// fills while other hosts send chunks of large messages faster than the port passes them on, and
  /// messages of one frame wait for it.
  double queue = 0;
  HostModel model{};

  bool operator==(const Host&) const = default;
};

/// A switch (of a rack, of a site) below the root or below another one, and the link that leads up.
struct Zone {
  std::string name;
  std::string parent;    ///< "": the root
  double bandwidth = 0;  ///< of the uplink, bytes per second, each way; 0: not a limit
  double latency = 0;    ///< of the uplink, seconds; a message crosses it going up or down

  bool operator==(const Zone&) const = default;
};

/// A straggler: a host whose computation takes `factor` times as long in some steps.
struct Straggler {
  enum class Kind : unsigned char { kFixed, kPeriodic, kRandom };
  std::string host;
  Kind kind = Kind::kFixed;
  double factor = 2;
  std::int64_t from_step = 1;  ///< first step, counts from 1
  std::int64_t to_step = 0;    ///< last step; 0: to the end
  std::int64_t period = 10;    ///< kPeriodic: the first `length` of every `period` steps
  std::int64_t length = 1;
  double probability = 0.1;  ///< kRandom: of each step

  bool operator==(const Straggler&) const = default;
};

/// A host that fails at a time, and is back, with its processes started anew, at another.
struct Failure {
  std::string host;
  double at = 0;                        ///< seconds from the begin of training
  std::optional<double> recovers_at{};  ///< absent: never

  bool operator==(const Failure&) const = default;
};

/// A cluster: hosts at switches that form a tree, and what disturbs them.
///
/// Ranks are numbered host by host: first all workers, then all dedicated servers.
struct Cluster {
  std::string name;
  std::vector<Host> hosts;
  std::vector<Zone> zones;
  std::optional<Variability> variability{};  ///< instead of the workload's own
  std::vector<Straggler> stragglers;
  std::vector<Failure> failures;

  int workers() const;
  int servers() const;
  /// Index into `hosts` for a rank.
  int host_of(int rank) const;
  bool operator==(const Cluster&) const = default;
};

/// Reads a cluster from a TOML file (docs/simulation.md describes it). Errors name file, line and
/// key: kInvalidArgument, or kIo when the file cannot be read.
base::Result<Cluster> load_cluster(const std::string& path);
/// The same from text; `name` stands for the file in errors.
base::Result<Cluster> parse_cluster(const std::string& text, const std::string& name);
/// What is wrong with it, if something is: parsing asks this, too.
base::Status validate(const Cluster& cluster);

}  // namespace gearshift::sim
