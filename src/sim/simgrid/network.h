#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gearshift/group/group.h"
#include "gearshift/sim/cluster.h"
#include "gearshift/sim/simulate.h"
#include "gearshift/transport/router.h"
#include "sim/milestone.h"
#include "sim/reception.h"
#include "sim/simgrid/link.h"
#include "sim/simgrid/platform.h"
#include "sim/simgrid/port.h"
#include "sim/simgrid/scheduler.h"

namespace gearshift::sim {

/// All ranks of a cluster and the links between them, which come to be when they are first used.
/// Not thread-safe, like its scheduler.
class Network {
 public:
  /// `sharing` is not kAuto.
  Network(SimScheduler& scheduler, const Cluster& cluster, base::Duration timeout, Sharing sharing);
  ~Network();

  /// The world of one rank, connected with all others. Once per rank, from a task of its host.
  std::unique_ptr<group::Group> join(int rank);

  SimScheduler& scheduler() { return scheduler_; }
  Platform& platform() { return platform_; }
  int ranks() const { return static_cast<int>(ranks_.size()); }
  simgrid::s4u::Host* host(int rank) const;
  const std::shared_ptr<transport::Router>& router(int rank) const;
  /// Messages sent so far.
  std::uint64_t messages() const { return messages_; }
  /// What has been done until now.
  NetworkMilestone milestone() const;

  /// Breaks all links, now and later.
  void abort(const base::Error& error);
  /// New links and routers for ranks that join anew, after `abort`.
  void restart();
  /// From now on, what is sent to or from this host gets lost; or no longer.
  void silence(int host, bool silent) { silent_[static_cast<std::size_t>(host)] = silent; }
  bool loses(int from, int to) const;

  /// Called after each piece of a message that was on the wire between two ranks, with when it
  /// began.
  void on_transfer(std::function<void(int from, int to, base::TimePoint begin)> listener) {
    on_transfer_ = std::move(listener);
  }

  // For connections and links:
  std::shared_ptr<Link> link(int from, int to);
  transport::Capabilities capabilities(int from, int to) const;
  /// The sender's processor works on one more message; when it will be done.
  base::TimePoint occupy_sender(int from, int to);
  /// When a message that has left now has arrived, and the receiver's processor has worked on it.
  base::TimePoint arrival(int from, int to);
  /// How long a small message that leaves now waits at the receiver's port.
  base::Duration queueing(int from, int to) const;
  /// Bytes go on the wire; returns how many of them take time, at least one. `bulk`: chunks of a
  /// large message.
  std::uint64_t begin_transfer(int from, int to, std::uint64_t bytes, bool bulk);
  /// What went on the wire at `begin` is through.
  void end_transfer(int from, int to, bool bulk, base::TimePoint begin);
  /// Waits until SimGrid has carried the bytes.
  void transfer(int from, int to, std::uint64_t bytes, bool bulk);
  /// The ports between ranks of two hosts. Without contention, one that is theirs alone.
  std::vector<Port*> route(int from, int to);
  /// How long bytes take between ranks of one host, if it is one.
  std::optional<base::Duration> local_transfer(int from, int to, std::uint64_t bytes) const;
  /// Sends what waits in that stream of the link: under max-min fairness by `link.carry` in a task
  /// of its own (tasks are used again), else by `link.launch`.
  void carry(Link& link, int lane);
  /// Ends the tasks above. Nothing may be under way.
  void stop();

 private:
  struct RankState {
    int host = 0;
    std::shared_ptr<transport::Router> router;
    base::TimePoint sender_free{};  ///< its processor, for messages that it sends …
    Reception reception{};          ///< … and for those that come
  };
  struct Carrier {
    Link* link = nullptr;  ///< what to carry, if anything
    int lane = 0;
    Actor* actor = nullptr;
    bool stopping = false;
    std::unique_ptr<base::Task> task;
  };
  int host_of(int rank) const { return ranks_[static_cast<std::size_t>(rank)].host; }
  void run(Carrier& carrier);
  std::shared_ptr<const group::Topology> make_topology() const;

  SimScheduler& scheduler_;
  const Cluster& cluster_;
  const base::Duration timeout_;
  Platform platform_;
  const Sharing sharing_;
  /// By direction under kPerLink, by pair of ranks under kNone; none under kMaxMin.
  std::vector<std::unique_ptr<Port>> ports_;
  std::vector<RankState> ranks_;
  std::shared_ptr<const group::Topology> topology_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Link>> links_;
  std::vector<std::shared_ptr<Link>> former_;  ///< what is under way may still end there
  std::vector<bool> silent_;                   ///< by host
  std::vector<std::unique_ptr<Carrier>> carriers_;
  std::vector<Carrier*> idle_;
  std::uint64_t messages_ = 0;
  std::optional<base::Error> aborted_;
  std::function<void(int, int, base::TimePoint)> on_transfer_;
};

}  // namespace gearshift::sim
