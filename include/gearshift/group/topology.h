#pragma once

#include <memory>
#include <vector>

namespace gearshift::group {

/// The α–β model of a link: a message of n bytes takes latency + n · seconds_per_byte.
struct LinkSpeed {
  double latency = 20e-6;
  double seconds_per_byte = 1.0 / 1.2e9;

  double seconds(double bytes) const { return latency + bytes * seconds_per_byte; }
  bool operator==(const LinkSpeed&) const = default;
};

/// How fast the links of a group are, and how fast a rank combines what comes over them.
struct LinkSpeeds {
  LinkSpeed local{};   ///< between ranks of one host
  LinkSpeed remote{};  ///< between hosts, where `between` says nothing else
  /// hosts × hosts, row by row; of both directions the slower one counts. Empty: all as `remote`.
  std::vector<LinkSpeed> between{};
  double reduce_seconds_per_byte = 1.0 / 8e9;  ///< γ: combining n bytes takes n · this
  bool measured = false;                       ///< or assumed

  bool operator==(const LinkSpeeds&) const = default;
};

/// Which ranks share a host, how fast the links are, and the order that follows from it. A value,
/// equal on all ranks of a group; made by collectives/survey.h. Immutable.
///
/// Hosts are numbered in the order of their lowest ranks.
class Topology {
 public:
  /// `host_of[rank]` is any label of the rank's host; `speeds.between` is in the order in which
  /// the labels first appear.
  explicit Topology(const std::vector<int>& host_of, LinkSpeeds speeds = {});
  /// All ranks on one host.
  static Topology one_host(int ranks, LinkSpeeds speeds = {});

  int size() const { return static_cast<int>(host_of_.size()); }
  int hosts() const { return static_cast<int>(members_.size()); }
  int host_of(int rank) const { return host_of_[static_cast<std::size_t>(rank)]; }
  /// The ranks of a host, ascending.
  const std::vector<int>& members(int host) const {
    return members_[static_cast<std::size_t>(host)];
  }
  int largest_host() const { return largest_host_; }    ///< ranks on it
  int smallest_host() const { return smallest_host_; }  ///< ranks on it

  /// Hosts in the order in which a ring visits them (see ring_order.h), from host 0 on.
  const std::vector<int>& host_ring() const { return host_ring_; }
  /// All ranks: host by host in the order of the ring, ascending within a host.
  const std::vector<int>& order() const { return order_; }
  /// Where a rank stands in `order`.
  int position(int rank) const { return position_[static_cast<std::size_t>(rank)]; }

  /// Sites, where links differ so much that hosts are at several (see sites.h), else null: a
  /// topology in whose place of ranks are this one's hosts, and in whose place of hosts are sites.
  /// Its `local` is the median of the links within sites, between two sites counts that of the
  /// links between their hosts: they may have met on their way when they were measured.
  const Topology* sites() const { return sites_.get(); }

  const LinkSpeeds& speeds() const { return speeds_; }
  LinkSpeed between(int host, int other) const;
  /// The slowest link between any two hosts, and between neighbours of the ring; `local` when there
  /// is one host only. Latency and bandwidth each for itself.
  const LinkSpeed& slowest_remote() const { return slowest_remote_; }
  const LinkSpeed& slowest_in_ring() const { return slowest_in_ring_; }
  /// Bytes per second that a host reaches over its best link to another one.
  double bandwidth(int host) const { return best_[static_cast<std::size_t>(host)]; }
  /// The most that a host reaches.
  double greatest_bandwidth() const { return greatest_bandwidth_; }

  /// What remains for the members `ranks` of a subgroup.
  Topology subset(const std::vector<int>& ranks) const;

 private:
  void find_ring();
  void judge_links();  ///< O(hosts²)
  void find_sites(const std::vector<double>& costs);

  std::vector<int> host_of_;
  std::vector<std::vector<int>> members_;
  int largest_host_ = 0;
  int smallest_host_ = 0;
  LinkSpeeds speeds_;
  std::vector<int> host_ring_;
  std::vector<int> order_;
  std::vector<int> position_;
  std::vector<double> best_;  ///< bandwidth, by host
  double greatest_bandwidth_ = 0;
  LinkSpeed slowest_remote_;
  LinkSpeed slowest_in_ring_;
  std::shared_ptr<const Topology> sites_;
};

}  // namespace gearshift::group
