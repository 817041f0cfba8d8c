#pragma once

#include <cstddef>

#include "collectives/segments.h"
#include "gearshift/group/group.h"
#include "gearshift/group/topology.h"

namespace gearshift::collectives {

/// The most segments that are under way to a peer, however far away it is: 16 MiB of scratch.
inline constexpr std::size_t kMostInFlight = 64;

/// Segments that fill a link. Who finishes a segment has waited for one that its peer sent
/// `latency` earlier; what the link carries within that time has to be under way beyond the
/// kWindow that keep it busy. Few links are so long: 256 KiB take 2 ms at 1 Gbit/s.
inline std::size_t in_flight(const group::LinkSpeed& link) {
  const double segments = link.latency / (link.seconds_per_byte * kSegmentBytes);
  if (segments >= kMostInFlight - kWindow) return kMostInFlight;
  return segments > 0 ? kWindow + static_cast<std::size_t>(segments) : kWindow;
}

/// Segments that fill the longest link between the group's hosts, alike on all ranks: what one
/// waits for has often come that far before a neighbour passed it on. kWindow while nothing is
/// known of the links.
inline std::size_t in_flight(const group::Group& group) {
  const group::Topology* topology = group.topology().get();
  if (topology == nullptr || topology->hosts() == 1) return kWindow;
  return in_flight(
      {topology->slowest_remote().latency, topology->slowest_in_ring().seconds_per_byte});
}

}  // namespace gearshift::collectives
