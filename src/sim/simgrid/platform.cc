#include "sim/simgrid/platform.h"

#include <algorithm>
#include <limits>
#include <map>
#include <simgrid/kernel/routing/NetPoint.hpp>
#include <simgrid/kernel/routing/NetZoneImpl.hpp>
#include <simgrid/s4u/Host.hpp>
#include <simgrid/s4u/Link.hpp>
#include <simgrid/s4u/NetZone.hpp>

namespace gearshift::sim {

namespace sg4 = simgrid::s4u;
namespace routing = simgrid::kernel::routing;

/// All hosts in one zone of SimGrid, which asks the tree for the way between two of them.
class Platform::TreeZone final : public routing::NetZoneImpl {
 public:
  explicit TreeZone(const Platform& platform)
      : routing::NetZoneImpl("cluster"), platform_(platform) {}

  void get_local_route(const routing::NetPoint* from, const routing::NetPoint* to,
                       routing::Route* into, double*) override {
    const int a = index_of(from);
    const int b = index_of(to);
    auto& links = into->link_list_;
    if (a == b) {
      links.push_back(platform_.local_[static_cast<std::size_t>(a)]->get_impl());
      return;
    }
    const Way way = platform_.way(a, b);
    for (const int e : way.up) {
      if (auto* link = platform_.edges_[static_cast<std::size_t>(e)].up) {
        links.push_back(link->get_impl());
      }
    }
    for (const int e : way.down) {
      if (auto* link = platform_.edges_[static_cast<std::size_t>(e)].down) {
        links.push_back(link->get_impl());
      }
    }
  }

  void learn(const sg4::Host* host) {
    const auto id = host->get_netpoint()->id();
    if (index_.size() <= id) index_.resize(id + 1, -1);
    index_[id] = next_++;
  }

 private:
  int index_of(const routing::NetPoint* point) const { return index_[point->id()]; }

  const Platform& platform_;
  std::vector<int> index_;
  int next_ = 0;
};

Platform::Platform(const Cluster& cluster) : cluster_(cluster) {
  zone_ = new TreeZone(*this);
  sg4::NetZone* zone = zone_->get_iface();
  for (const Host& host : cluster.hosts) {
    hosts_.push_back(zone->create_host(host.name, 1e9));
    hosts_.back()->set_data(const_cast<HostModel*>(&host.model));
    zone_->learn(hosts_.back());
    sg4::Link* local = zone->create_link(host.name + " local", host.model.local_bandwidth);
    local->set_sharing_policy(sg4::Link::SharingPolicy::FATPIPE);
    local->seal();
    local_.push_back(local);
  }
  add_edges();
  zone->seal();
}

Platform::~Platform() = default;

int Platform::add_edge(const std::string& name, double bandwidth, double latency, bool interface) {
  Edge edge{name, bandwidth, latency};
  if (bandwidth > 0) {
    sg4::NetZone* zone = zone_->get_iface();
    edge.up = zone->create_link(name + (interface ? " out" : " up"), bandwidth);
    edge.down = zone->create_link(name + (interface ? " in" : " down"), bandwidth);
    edge.up->seal();
    edge.down->seal();
  }
  edges_.push_back(std::move(edge));
  return static_cast<int>(edges_.size()) - 1;
}

void Platform::add_edges() {
  std::map<std::string, int> zone_edge;
  std::map<std::string, std::string> parent;
  for (const Zone& zone : cluster_.zones) {
    zone_edge[zone.name] = add_edge(zone.name, zone.bandwidth, zone.latency, false);
    parent[zone.name] = zone.parent;
  }
  for (const Host& host : cluster_.hosts) {
    std::vector<int> path{add_edge(host.name, host.bandwidth, host.latency, true)};
    for (std::string zone = host.zone; !zone.empty(); zone = parent[zone]) {
      path.push_back(zone_edge[zone]);
    }
    to_root_.push_back(std::move(path));
  }
}

Platform::Way Platform::way(int from, int to) const {
  Way way{to_root_[static_cast<std::size_t>(from)], to_root_[static_cast<std::size_t>(to)]};
  if (from == to) return {};
  // What they share above the point where they meet is not travelled.
  while (!way.up.empty() && !way.down.empty() && way.up.back() == way.down.back()) {
    way.up.pop_back();
    way.down.pop_back();
  }
  std::reverse(way.down.begin(), way.down.end());
  return way;
}

double Platform::latency(int from, int to) const {
  if (from == to) return cluster_.hosts[static_cast<std::size_t>(from)].model.local_latency;
  const Way way = this->way(from, to);
  double sum = 0;
  for (const int e : way.up) sum += edges_[static_cast<std::size_t>(e)].latency;
  for (const int e : way.down) sum += edges_[static_cast<std::size_t>(e)].latency;
  return sum;
}

double Platform::bandwidth(int from, int to) const {
  if (from == to) return cluster_.hosts[static_cast<std::size_t>(from)].model.local_bandwidth;
  const Way way = this->way(from, to);
  double least = std::numeric_limits<double>::infinity();
  for (const auto* part : {&way.up, &way.down}) {
    for (const int e : *part) {
      const double bandwidth = edges_[static_cast<std::size_t>(e)].bandwidth;
      if (bandwidth > 0) least = std::min(least, bandwidth);
    }
  }
  return least;
}

void Platform::count(int from, int to, std::uint64_t bytes) {
  if (from == to) return;
  const Way way = this->way(from, to);
  for (const int e : way.up) edges_[static_cast<std::size_t>(e)].bytes_up += bytes;
  for (const int e : way.down) edges_[static_cast<std::size_t>(e)].bytes_down += bytes;
}

std::vector<LinkUse> Platform::link_use() const {
  std::vector<LinkUse> uses;
  for (const Edge& edge : edges_) {
    if (edge.up == nullptr) continue;
    uses.push_back({edge.up->get_name(), edge.bandwidth, static_cast<double>(edge.bytes_up)});
    uses.push_back({edge.down->get_name(), edge.bandwidth, static_cast<double>(edge.bytes_down)});
  }
  return uses;
}

group::LinkSpeeds Platform::speeds(const std::vector<int>& host_order) const {
  const auto speed = [this](int a, int b) {
    return group::LinkSpeed{latency(a, b) +
                                cluster_.hosts[static_cast<std::size_t>(a)].model.per_message +
                                cluster_.hosts[static_cast<std::size_t>(b)].model.per_message,
                            1 / std::min(bandwidth(a, b), bandwidth(b, a))};
  };
  group::LinkSpeeds speeds;
  speeds.measured = true;
  const HostModel& first = cluster_.hosts[static_cast<std::size_t>(host_order[0])].model;
  speeds.local = {first.local_latency, 1 / first.local_bandwidth};
  speeds.reduce_seconds_per_byte = 1 / first.reduce_bandwidth;
  if (host_order.size() < 2) return speeds;
  speeds.remote = speed(host_order[0], host_order[1]);
  std::vector<group::LinkSpeed> between;
  bool equal = true;
  for (const int a : host_order) {
    for (const int b : host_order) {
      between.push_back(a == b ? group::LinkSpeed{} : speed(a, b));
      equal = equal && (a == b || between.back() == speeds.remote);
    }
  }
  if (!equal) speeds.between = std::move(between);
  return speeds;
}

}  // namespace gearshift::sim
