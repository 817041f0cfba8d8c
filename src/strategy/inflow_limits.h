#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "gearshift/group/group.h"
#include "gearshift/group/topology.h"

namespace gearshift::strategy {

/// How many bytes from a rank of host `from` may be under way to a rank of `host` (see
/// transport::Connection::limit_inflow) while all ranks serve and use parameter servers; 0: as many
/// as the transport thinks right.
///
/// Only links that are slower than the fastest are limited, where what several fast hosts send
/// overflows the port that leads to a slow one. All that is under way to it is then at most what
/// its port passes on in kInflowSeconds, and at least what keeps each link busy.
std::size_t inflow_bytes(const group::Topology& topology, int host, int from);

/// A window counts the data whose acknowledgements wait behind what the receiver sends itself, too:
/// with less than this, links that are busy in both directions would stand still in between.
inline constexpr double kInflowSeconds = 40e-3;

/// The same for what a worker of host `from` has under way to a dedicated server of `host`, which
/// all `workers` send to at once. Where hosts are equally fast, their port overflows as well; a
/// server sends no more than it gets, so that acknowledgements wait for little.
std::size_t server_inflow_bytes(const group::Topology& topology, int host, int from, int workers);

/// Of one worker, in all sockets: 192 KiB for each, which is what any process may ask for, and more
/// than the kernel lets a socket have in the queue of its interface, behind which acknowledgements
/// of others wait.
inline constexpr std::size_t kServerInflowBytes = 384 << 10;

/// Limits what is under way to this rank for as long as it lives.
class InflowLimits {
 public:
  /// Of a worker, while shards are in workers.
  explicit InflowLimits(const group::Group& world);
  /// Of a dedicated server; workers are the first ranks.
  InflowLimits(const group::Group& world, int workers);
  ~InflowLimits();
  InflowLimits(const InflowLimits&) = delete;
  InflowLimits& operator=(const InflowLimits&) = delete;

 private:
  void limit(const group::Group& world, int rank, std::size_t bytes);

  std::vector<std::shared_ptr<transport::Connection>> limited_;
};

}  // namespace gearshift::strategy
