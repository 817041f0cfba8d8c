#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "gearshift/group/group.h"
#include "gearshift/group/topology.h"

namespace gearshift::strategy {

/// How many bytes from a rank of host `from` may be under way to a rank of host `to` (see
/// transport::Connection::limit_flow) while all ranks serve and use parameter servers; 0: as many
/// as the transport thinks right.
///
/// Only links of hosts that are slower than the fastest, and links that are far slower, are
/// limited: there, what several fast hosts send overflows the port that leads to a slow one. All
/// that is under way to it is then at most what its port passes on in kUnderWaySeconds, and at
/// least what keeps each link busy.
std::size_t flow_bytes(const group::Topology& topology, int to, int from);

/// What counts are data whose acknowledgements wait behind what the receiver sends itself, too:
/// with less than this, links that are busy in both directions would stand still in between.
inline constexpr double kUnderWaySeconds = 40e-3;

/// The same for what a worker of host `from` has under way to a dedicated server of host `to`,
/// which all `workers` send to at once. Where hosts are equally fast, their port overflows as well;
/// a server sends no more than it gets, so that acknowledgements wait for little.
std::size_t server_flow_bytes(const group::Topology& topology, int to, int from, int workers);

/// Of one worker, in all sockets: 192 KiB for each, which is what any process may ask for, and more
/// than the kernel lets a socket have in the queue of its interface, behind which acknowledgements
/// of others wait.
inline constexpr std::size_t kServerFlowBytes = 384 << 10;

/// Limits what is under way between this rank and others for as long as it lives. The others have
/// one, too.
class FlowLimits {
 public:
  /// While shards are in workers.
  explicit FlowLimits(const group::Group& world);
  /// Between the workers, which are the first ranks, and dedicated servers.
  FlowLimits(const group::Group& world, int workers);
  ~FlowLimits();
  FlowLimits(const FlowLimits&) = delete;
  FlowLimits& operator=(const FlowLimits&) = delete;

 private:
  void limit(const group::Group& world, int rank, const transport::FlowLimit& bytes);

  std::vector<std::shared_ptr<transport::Connection>> limited_;
};

}  // namespace gearshift::strategy
