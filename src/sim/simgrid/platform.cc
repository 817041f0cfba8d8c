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
    const auto add = [&links](sg4::Link* link) {
      if (link != nullptr) links.push_back(link->get_impl());
    };
    travel(
        platform_, a, b, [&](const Edge& e) { add(e.up); }, [&](const Edge& e) { add(e.down); });
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

Platform::Platform(const Cluster& cluster) : cluster_(cluster), queues_(cluster) {
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

int Platform::add_edge(const std::string& name, double bandwidth, double latency, double burst,
                       bool interface) {
  Edge edge{name, bandwidth, latency, burst};
  if (bandwidth > 0) {
    sg4::NetZone* zone = zone_->get_iface();
    edge.up = zone->create_link(name + (interface ? " out" : " up"), bandwidth);
    edge.down = zone->create_link(name + (interface ? " in" : " down"), bandwidth);
    edge.up->seal();
    edge.down->seal();
  }
  edges_.push_back(std::move(edge));
  latencies_.push_back(latency);
  carried_.emplace_back();
  bursts_ = bursts_ || burst > 0;
  return static_cast<int>(edges_.size()) - 1;
}

void Platform::add_edges() {
  std::map<std::string, int> zone_edge;
  std::map<std::string, std::string> parent;
  for (const Zone& zone : cluster_.zones) {
    zone_edge[zone.name] = add_edge(zone.name, zone.bandwidth, zone.latency, 0, false);
    parent[zone.name] = zone.parent;
  }
  for (const Host& host : cluster_.hosts) {
    std::vector<int> path{
        add_edge(host.name, host.bandwidth, host.latency, static_cast<double>(host.burst), true)};
    for (std::string zone = host.zone; !zone.empty(); zone = parent[zone]) {
      path.push_back(zone_edge[zone]);
    }
    to_root_.push_back(std::move(path));
  }
}

template <typename Self, typename Up, typename Down>
void Platform::travel(Self& self, int from, int to, Up up, Down down) {
  self.travel_numbers(
      from, to, [&](std::size_t edge) { up(self.edges_[edge]); },
      [&](std::size_t edge) { down(self.edges_[edge]); });
}

template <typename Up, typename Down>
void Platform::travel_numbers(int from, int to, Up up, Down down) const {
  if (from == to) return;
  const std::vector<int>& there = to_root_[static_cast<std::size_t>(from)];
  const std::vector<int>& back = to_root_[static_cast<std::size_t>(to)];
  // What they share above the point where they meet is not travelled.
  std::size_t a = there.size();
  std::size_t b = back.size();
  while (a > 0 && b > 0 && there[a - 1] == back[b - 1]) --a, --b;
  for (std::size_t i = 0; i < a; ++i) up(static_cast<std::size_t>(there[i]));
  while (b-- > 0) down(static_cast<std::size_t>(back[b]));
}

double Platform::latency(int from, int to) const {
  if (from == to) return cluster_.hosts[static_cast<std::size_t>(from)].model.local_latency;
  double sum = 0;
  const auto add = [&](std::size_t edge) { sum += latencies_[edge]; };
  travel_numbers(from, to, add, add);
  return sum;
}

double Platform::bandwidth(int from, int to) const {
  if (from == to) return cluster_.hosts[static_cast<std::size_t>(from)].model.local_bandwidth;
  double least = std::numeric_limits<double>::infinity();
  const auto narrow = [&least](const Edge& edge) {
    if (edge.bandwidth > 0) least = std::min(least, edge.bandwidth);
  };
  travel(*this, from, to, narrow, narrow);
  return least;
}

std::vector<int> Platform::way(int from, int to) const {
  std::vector<int> directions;
  const auto add = [&](const Edge& edge, int down) {
    const auto index = static_cast<int>(&edge - edges_.data());
    if (edge.bandwidth > 0) directions.push_back(2 * index + down);
  };
  travel(
      *this, from, to, [&](const Edge& edge) { add(edge, 0); },
      [&](const Edge& edge) { add(edge, 1); });
  return directions;
}

double Platform::tokens(const Edge& edge, const TokenBucket& bucket, double now) {
  if (bucket.under_way > 0) return bucket.tokens;
  return std::min(edge.burst, bucket.tokens + (now - bucket.since) * edge.bandwidth);
}

std::uint64_t Platform::begin_transfer(int from, int to, std::uint64_t bytes, bool bulk,
                                       double now) {
  if (from == to) return 0;
  if (bulk) queues_.begin(from, to, now);
  if (!bursts_) return 0;
  auto at_once = static_cast<double>(bytes);
  travel(
      *this, from, to,
      [&](const Edge& e) {
        if (e.bandwidth > 0) at_once = std::min(at_once, tokens(e, e.out, now));
      },
      [&](const Edge& e) {
        if (e.bandwidth > 0) at_once = std::min(at_once, tokens(e, e.in, now));
      });
  const auto spend = [&](const Edge& edge, TokenBucket& bucket) {
    bucket.tokens = tokens(edge, bucket, now) - at_once;
    ++bucket.under_way;
  };
  travel(
      *this, from, to, [&](Edge& e) { spend(e, e.out); }, [&](Edge& e) { spend(e, e.in); });
  return static_cast<std::uint64_t>(at_once);
}

void Platform::end_transfer(int from, int to, bool bulk, double now) {
  if (from == to) return;
  if (bulk) queues_.end(from, to, now);
  if (!bursts_) return;
  const auto note = [now](TokenBucket& bucket) {
    if (--bucket.under_way == 0) bucket.since = now;
  };
  travel(
      *this, from, to, [&](Edge& e) { note(e.out); }, [&](Edge& e) { note(e.in); });
}

void Platform::count(int from, int to, std::uint64_t bytes) {
  travel_numbers(
      from, to, [&](std::size_t edge) { carried_[edge].up += bytes; },
      [&](std::size_t edge) { carried_[edge].down += bytes; });
}

void Platform::reset_counts() { std::fill(carried_.begin(), carried_.end(), Carried()); }

std::vector<LinkUse> Platform::link_use() const {
  std::vector<LinkUse> uses;
  for (std::size_t e = 0; e < edges_.size(); ++e) {
    const Edge& edge = edges_[e];
    if (edge.up == nullptr) continue;
    uses.push_back({edge.up->get_name(), edge.bandwidth, static_cast<double>(carried_[e].up)});
    uses.push_back({edge.down->get_name(), edge.bandwidth, static_cast<double>(carried_[e].down)});
  }
  return uses;
}

std::vector<double> Platform::carried() const {
  std::vector<double> bytes;
  for (std::size_t e = 0; e < edges_.size(); ++e) {
    if (edges_[e].up == nullptr) continue;
    bytes.push_back(static_cast<double>(carried_[e].up));
    bytes.push_back(static_cast<double>(carried_[e].down));
  }
  return bytes;
}

std::vector<double> Platform::refills(double now) const {
  std::vector<double> seconds = queues_.levels(now);
  for (const Edge& edge : edges_) {
    if (edge.burst <= 0) continue;
    for (const TokenBucket* bucket : {&edge.out, &edge.in}) {
      seconds.push_back((edge.burst - tokens(edge, *bucket, now)) / edge.bandwidth);
    }
  }
  return seconds;
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
