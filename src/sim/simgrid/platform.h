#pragma once

#include <simgrid/forward.h>

#include <cstdint>
#include <string>
#include <vector>

#include "gearshift/group/topology.h"
#include "gearshift/sim/cluster.h"
#include "gearshift/sim/simulate.h"
#include "sim/simgrid/port_queues.h"

namespace gearshift::sim {

/// A cluster as SimGrid's platform: a tree of zones whose uplinks, and the interfaces of whose
/// hosts, are links with a direction each. What SimGrid carries shares them by max-min fairness;
/// latencies are paid by whoever sends, not in SimGrid.
///
/// The engine exists already and has no platform yet.
class Platform {
 public:
  explicit Platform(const Cluster& cluster);
  ~Platform();
  Platform(const Platform&) = delete;
  Platform& operator=(const Platform&) = delete;

  simgrid::s4u::Host* host(int index) const { return hosts_[static_cast<std::size_t>(index)]; }
  /// Seconds from the first byte sent to the first byte received.
  double latency(int from, int to) const;
  /// Bytes per second of the narrowest link between them.
  double bandwidth(int from, int to) const;
  /// Links by direction: their number, bandwidth, and those between two hosts in the order of
  /// travel (without the ones that are no limit).
  int directions() const { return 2 * static_cast<int>(edges_.size()); }
  double bandwidth_of(int direction) const {
    return edges_[static_cast<std::size_t>(direction / 2)].bandwidth;
  }
  std::vector<int> way(int from, int to) const;
  /// A transfer begins, and ends. What interfaces that were idle let through at once (Host::burst)
  /// is returned: so many bytes less take time. `bulk`: of a stream that goes on for long.
  std::uint64_t begin_transfer(int from, int to, std::uint64_t bytes, bool bulk, double now);
  void end_transfer(int from, int to, bool bulk, double now);
  const PortQueues& queues() const { return queues_; }
  /// Notes that bytes went this way.
  void count(int from, int to, std::uint64_t bytes);
  /// Forgets what went so far.
  void reset_counts();
  /// All directions of links.
  std::vector<LinkUse> link_use() const;
  /// Their bytes alone, in the same order.
  std::vector<double> carried() const;
  /// Of each token bucket: seconds for which its interface would have to be idle until it is full;
  /// of each queue of a port, until it is empty.
  std::vector<double> refills(double now) const;
  /// What collectives and shard placement know of the network, as if it had been measured.
  group::LinkSpeeds speeds(const std::vector<int>& host_order) const;

 private:
  class TreeZone;
  /// Tokens fill up while nothing is under way, and are spent by who comes first.
  struct TokenBucket {
    double tokens = 0;  ///< bytes, at `since`
    double since = 0;
    int under_way = 0;
  };
  struct Edge {  ///< an interface or an uplink
    std::string name;
    double bandwidth = 0;
    double latency = 0;
    double burst = 0;
    TokenBucket out{burst}, in{burst};
    simgrid::s4u::Link* up = nullptr;
    simgrid::s4u::Link* down = nullptr;
  };
  /// Calls `up(edge)`, then `down(edge)`, for the edges between two hosts in the order of travel.
  template <typename Self, typename Up, typename Down>
  static void travel(Self& self, int from, int to, Up up, Down down);
  /// The same with the edges' numbers.
  template <typename Up, typename Down>
  void travel_numbers(int from, int to, Up up, Down down) const;
  void add_edges();
  int add_edge(const std::string& name, double bandwidth, double latency, double burst,
               bool interface);
  static double tokens(const Edge& edge, const TokenBucket& bucket, double now);

  const Cluster& cluster_;
  TreeZone* zone_ = nullptr;  ///< owned by the engine
  std::vector<Edge> edges_;
  /// By edge: what is looked at, and counted, for each message.
  std::vector<double> latencies_;
  struct Carried {
    std::uint64_t up = 0, down = 0;  ///< bytes
  };
  std::vector<Carried> carried_;
  bool bursts_ = false;  ///< some interface has a token bucket
  PortQueues queues_;
  std::vector<simgrid::s4u::Host*> hosts_;
  std::vector<simgrid::s4u::Link*> local_;  ///< between processes, per host
  std::vector<std::vector<int>> to_root_;   ///< per host: its edges, from the interface upwards
};

}  // namespace gearshift::sim
