#include "strategy/inflow_limits.h"

#include <algorithm>

namespace gearshift::strategy {
namespace {

/// Less than a few packets would make a connection stop and go.
constexpr double kLeastBytes = 48 << 10;
/// By how much measured bandwidths are wrong.
constexpr double kClearly = 1.2;
/// A window of twice what is under way on an idle link keeps a busy one busy.
constexpr double kRoundTrips = 2;

}  // namespace

std::size_t inflow_bytes(const group::Topology& topology, int host, int from) {
  if (!topology.speeds().measured || host == from) return 0;
  const group::LinkSpeed link = topology.between(host, from);
  const double rate = 1 / link.seconds_per_byte;
  if (topology.greatest_bandwidth() < kClearly * rate) return 0;
  const auto here = static_cast<double>(topology.members(host).size());
  const double flows = here * (topology.size() - here);
  const double busy = kRoundTrips * rate * 2 * link.latency;
  return static_cast<std::size_t>(std::max({kLeastBytes, busy, rate * kInflowSeconds / flows}));
}

InflowLimits::InflowLimits(const group::Group& world) {
  if (!world.topology()) return;
  const group::Topology& topology = *world.topology();
  const int host = topology.host_of(world.rank().value);
  for (int r = 0; r < world.size(); ++r) {
    const std::size_t bytes = inflow_bytes(topology, host, topology.host_of(r));
    if (bytes == 0) continue;
    limited_.push_back(world.links()[static_cast<std::size_t>(r)]);
    limited_.back()->limit_inflow(bytes);
  }
}

InflowLimits::~InflowLimits() {
  for (const auto& link : limited_) link->limit_inflow(0);
}

}  // namespace gearshift::strategy
