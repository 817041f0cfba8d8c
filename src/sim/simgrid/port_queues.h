#pragma once

#include <map>
#include <vector>

#include "gearshift/sim/cluster.h"

namespace gearshift::sim {

/// What piles up at the switch's ports towards the hosts (Host::queue) while more comes than goes:
/// several hosts send large messages to one, or one does whose link is faster.
///
/// A host that sends to k others gives each a k-th of its rate. So a port fills by the excess of
/// what its senders give it over its own rate, up to its buffer, and empties in the same way:
/// all-to-all traffic in balance leaves none behind.
class PortQueues {
 public:
  explicit PortQueues(const Cluster& cluster);

  /// A piece of a large message goes from one host to another, and is through. Times in seconds.
  void begin(int from, int to, double now);
  void end(int from, int to, double now);
  /// How long something small from one host waits behind what others send to the other.
  double wait(int from, int to, double now) const;
  /// Seconds, of each host whose port has a queue.
  std::vector<double> levels(double now) const;

 private:
  struct Port {
    double buffer = 0;  ///< seconds; 0: no queue
    double rate = 0;    ///< bytes per second
    double level = 0;   ///< seconds, at `since`
    double since = 0;
    std::map<int, int> senders;  ///< hosts, and pieces of each
  };
  const Port& at(int host) const { return ports_[static_cast<std::size_t>(host)]; }
  Port& at(int host) { return ports_[static_cast<std::size_t>(host)]; }
  double growth(const Port& port) const;
  double level(const Port& port, double now) const;
  void settle(int host, double now);
  /// Before something changes about what a host sends, and to one more host.
  void settle_around(int from, int to, double now);

  std::vector<Port> ports_;
  std::vector<std::map<int, int>> targets_;  ///< by host: to whom it sends, and pieces for each
  bool any_ = false;
};

}  // namespace gearshift::sim
