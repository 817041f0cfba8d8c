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

double keeps_busy(const group::LinkSpeed& link) {
  return kRoundTrips * 2 * link.latency / link.seconds_per_byte;
}

}  // namespace

std::size_t inflow_bytes(const group::Topology& topology, int host, int from) {
  if (!topology.speeds().measured || host == from) return 0;
  const group::LinkSpeed link = topology.between(host, from);
  const double rate = 1 / link.seconds_per_byte;
  if (topology.greatest_bandwidth() < kClearly * rate) return 0;
  const auto here = static_cast<double>(topology.members(host).size());
  const double flows = here * (topology.size() - here);
  return static_cast<std::size_t>(
      std::max({kLeastBytes, keeps_busy(link), rate * kInflowSeconds / flows}));
}

std::size_t server_inflow_bytes(const group::Topology& topology, int host, int from, int workers) {
  if (!topology.speeds().measured || host == from || workers < 2) return 0;
  const double busy = keeps_busy(topology.between(host, from));
  return busy > static_cast<double>(kServerInflowBytes) ? 0 : kServerInflowBytes;
}

InflowLimits::InflowLimits(const group::Group& world) {
  if (!world.topology()) return;
  const group::Topology& topology = *world.topology();
  const int host = topology.host_of(world.rank().value);
  for (int r = 0; r < world.size(); ++r) {
    limit(world, r, inflow_bytes(topology, host, topology.host_of(r)));
  }
}

InflowLimits::InflowLimits(const group::Group& world, int workers) {
  if (!world.topology()) return;
  const group::Topology& topology = *world.topology();
  const int host = topology.host_of(world.rank().value);
  for (int r = 0; r < workers; ++r) {
    limit(world, r, server_inflow_bytes(topology, host, topology.host_of(r), workers));
  }
}

void InflowLimits::limit(const group::Group& world, int rank, std::size_t bytes) {
  if (bytes == 0) return;
  limited_.push_back(world.links()[static_cast<std::size_t>(rank)]);
  limited_.back()->limit_inflow(bytes);
}

InflowLimits::~InflowLimits() {
  for (const auto& link : limited_) link->limit_inflow(0);
}

}  // namespace gearshift::strategy
