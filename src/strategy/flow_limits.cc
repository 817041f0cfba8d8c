#include "strategy/flow_limits.h"

#include <algorithm>

namespace gearshift::strategy {
namespace {

/// Less than a few packets would make a connection stop and go.
constexpr double kLeastBytes = 48 << 10;
/// By how much measured bandwidths are wrong: of a host, over the best of its links, and of a
/// single link, which others may have crossed.
constexpr double kClearly = 1.2, kFar = 2;
/// A window of twice what is under way on an idle link keeps a busy one busy.
constexpr double kRoundTrips = 2;

double keeps_busy(const group::LinkSpeed& link) {
  return kRoundTrips * 2 * link.latency / link.seconds_per_byte;
}

}  // namespace

std::size_t flow_bytes(const group::Topology& topology, int to, int from) {
  if (!topology.speeds().measured || to == from) return 0;
  const group::LinkSpeed link = topology.between(to, from);
  const double rate = 1 / link.seconds_per_byte;
  const double port = std::min(topology.bandwidth(to), topology.bandwidth(from));
  const double greatest = topology.greatest_bandwidth();
  if (greatest < kClearly * port && greatest < kFar * rate) return 0;
  const auto there = static_cast<double>(topology.members(to).size());
  const double flows = there * (topology.size() - there);
  return static_cast<std::size_t>(
      std::max({kLeastBytes, keeps_busy(link), rate * kUnderWaySeconds / flows}));
}

std::size_t server_flow_bytes(const group::Topology& topology, int to, int from, int workers) {
  if (!topology.speeds().measured || to == from || workers < 2) return 0;
  const double busy = keeps_busy(topology.between(to, from));
  return busy > static_cast<double>(kServerFlowBytes) ? 0 : kServerFlowBytes;
}

FlowLimits::FlowLimits(const group::Group& world) {
  if (!world.topology()) return;
  const group::Topology& topology = *world.topology();
  const int own = topology.host_of(world.rank().value);
  for (int r = 0; r < world.size(); ++r) {
    const int other = topology.host_of(r);
    limit(world, r,
          {.out = flow_bytes(topology, other, own), .in = flow_bytes(topology, own, other)});
  }
}

FlowLimits::FlowLimits(const group::Group& world, int workers) {
  if (!world.topology()) return;
  const group::Topology& topology = *world.topology();
  const int own = topology.host_of(world.rank().value);
  const bool serves = world.rank().value >= workers;
  for (int r = serves ? 0 : workers; r < (serves ? workers : world.size()); ++r) {
    const int other = topology.host_of(r);
    const std::size_t bytes = serves ? server_flow_bytes(topology, own, other, workers)
                                     : server_flow_bytes(topology, other, own, workers);
    limit(world, r,
          serves ? transport::FlowLimit{.in = bytes} : transport::FlowLimit{.out = bytes});
  }
}

void FlowLimits::limit(const group::Group& world, int rank, const transport::FlowLimit& bytes) {
  if (bytes.out == 0 && bytes.in == 0) return;
  limited_.push_back(world.links()[static_cast<std::size_t>(rank)]);
  limited_.back()->limit_flow(bytes);
}

FlowLimits::~FlowLimits() {
  for (const auto& link : limited_) link->limit_flow({});
}

}  // namespace gearshift::strategy
