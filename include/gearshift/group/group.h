#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/group/topology.h"
#include "gearshift/transport/connection.h"
#include "gearshift/transport/router.h"
#include "gearshift/transport/transport.h"

namespace gearshift::group {

/// What the last thing was that this process's communication did; travels with heartbeats, so that
/// survivors of a failure can say how far every rank had come. Thread-safety: all methods.
class Progress {
 public:
  struct Snapshot {
    std::int64_t step = 0;
    std::string operation;  ///< "all_reduce bucket 3 (ring)", "push step 12", "idle"
    base::TimePoint since;  ///< when the operation began
    std::string previous;   ///< the operation that ended last, "" before the first
  };
  explicit Progress(base::Scheduler& scheduler);
  void set_step(base::Step step);
  /// Operations may nest and overlap; the snapshot shows the youngest that still runs. Returns a
  /// ticket for `end`.
  std::uint64_t begin(std::string operation);
  void end(std::uint64_t ticket);
  /// It is going to end without having been done: the snapshot goes on to show it, until another
  /// one begins.
  void give_up(std::uint64_t ticket);
  /// An operation that was over before it was worth the above. `name` must live for ever.
  /// Costs one store; the snapshot shows it as the previous one until another has ended.
  void quick(const char* name) { quick_.store(name, std::memory_order_relaxed); }
  Snapshot snapshot() const;

 private:
  struct Running {
    std::uint64_t ticket;
    std::string operation;
    base::TimePoint since;
    bool given_up = false;
  };
  std::vector<Running>::iterator find(std::uint64_t ticket);

  base::Scheduler& scheduler_;
  std::unique_ptr<base::Monitor> monitor_;
  std::int64_t step_ = 0;
  std::uint64_t next_ticket_ = 1;
  base::TimePoint idle_since_;
  std::string previous_;
  std::vector<Running> running_;
  std::optional<Running> given_up_;          ///< the one that ended last, if so
  std::atomic<const char*> quick_{nullptr};  ///< ended after `previous_`, if set
};

/// Marks an operation for as long as it lives.
class ProgressScope {
 public:
  ProgressScope(Progress& progress, std::string operation)
      : progress_(progress), ticket_(progress.begin(std::move(operation))) {}
  ~ProgressScope() { progress_.end(ticket_); }
  /// The operation has failed.
  void give_up() const { progress_.give_up(ticket_); }
  ProgressScope(const ProgressScope&) = delete;
  ProgressScope& operator=(const ProgressScope&) = delete;

 private:
  Progress& progress_;
  std::uint64_t ticket_;
};

/// Everything that ranks of one incarnation share: connections, abort state, defaults.
/// Lives as long as any Group over it.
struct Context {
  base::Scheduler* scheduler = nullptr;
  std::shared_ptr<transport::Router> router;
  base::Generation generation{1};
  base::Duration timeout{};
  std::unique_ptr<Progress> progress;
  /// What the connections of the links came from; kept because it listens and moves their bytes.
  std::vector<std::shared_ptr<transport::Transport>> transports;
  /// From this process to itself (see loopback.h): the link of a worker to a server in its own
  /// process. Breaks and closes with the group's links. Its peer is this process's world rank.
  std::shared_ptr<transport::Connection> loopback;
  /// shares[a][b], by world rank: a and b can map each other's memory. Equal on all ranks; empty
  /// when nobody can.
  std::vector<std::vector<bool>> shares;
};

class Window;

/// The channels that a program may use for groups of its own, these two included. The others are
/// the library's: those of sessions below, those of replicas and servers above.
inline constexpr std::uint16_t kFirstUserChannel = 2;
inline constexpr std::uint16_t kLastUserChannel = 0xFF;

/// Ranks that can talk to each other: a rank, a size, connections, and a channel on which this
/// group numbers its operations.
///
/// All ranks of a group must start the same collectives in the same order on one Group object;
/// operations that may interleave use groups of their own (`with_channel`). Thread-safety: const
/// methods and `next_sequence` from any task; one collective at a time per Group object.
class Group {
 public:
  using Links = std::vector<std::shared_ptr<transport::Connection>>;
  /// `links[r]` leads to rank r; the own entry is null. Connections are shared with subgroups.
  Group(std::shared_ptr<Context> context, base::Rank rank, Links links, std::uint16_t channel);

  base::Rank rank() const { return rank_; }
  int size() const { return static_cast<int>(links_->size()); }
  base::Generation generation() const { return context_->generation; }
  base::Scheduler& scheduler() const { return *context_->scheduler; }
  base::Duration timeout() const { return context_->timeout; }
  /// now + timeout.
  base::TimePoint deadline() const { return scheduler().after(timeout()); }
  Progress& progress() const { return *context_->progress; }
  transport::Router& router() const { return *context_->router; }
  const std::shared_ptr<Context>& context() const { return context_; }

  transport::Connection& link(base::Rank peer) const {
    return *(*links_)[static_cast<std::size_t>(peer.value)];
  }
  const Links& links() const { return *links_; }

  std::uint16_t channel() const { return channel_; }
  /// Number of the next operation on this group's channel; equal on all ranks by their order.
  std::uint32_t next_sequence() { return sequence_++; }
  /// Numbers of the next point-to-point message to, or from, a peer. Counted per peer, since the
  /// other ranks know nothing of it. One sending and one receiving task per peer at a time.
  std::uint32_t next_send(base::Rank to) { return sent_[static_cast<std::size_t>(to.value)]++; }
  std::uint32_t next_recv(base::Rank from) {
    return received_[static_cast<std::size_t>(from.value)]++;
  }

  /// Whether all ranks of this group can map each other's memory: the same answer on all of them.
  /// Then they may have a window (see window.h), which whoever opens it keeps here.
  bool shares_memory() const;
  Window* window() const { return window_.get(); }
  bool window_opened() const { return window_opened_; }
  void set_window(std::shared_ptr<Window> window) {
    window_ = std::move(window);
    window_opened_ = true;
  }

  /// What is known of hosts and links; null before a survey (see collectives/survey.h). Copies on
  /// other channels and subgroups know what this group knows when they are made. Equal on all
  /// ranks: it decides what they send to whom.
  const std::shared_ptr<const Topology>& topology() const { return topology_; }
  /// Not while a collective runs on this object.
  void set_topology(std::shared_ptr<const Topology> topology) { topology_ = std::move(topology); }

  /// The same ranks on a channel of its own, for operations that interleave with this group's. A
  /// program takes kFirstUserChannel to kLastUserChannel: on another, its data would get mixed up
  /// with those of a training. Groups that have two ranks in common need different channels.
  Group with_channel(std::uint16_t channel) const;
  /// The members `ranks` (ascending, containing this rank) renumbered 0 … n-1.
  Group subgroup(const std::vector<base::Rank>& ranks, std::uint16_t channel) const;

  /// Sum over all links.
  transport::Traffic traffic() const;
  /// Breaks all links with `reason`; everything pending fails. Idempotent.
  void abort(const base::Error& reason) const;
  /// Good-bye to all peers; waits until the last byte has left or `deadline`.
  void close(base::TimePoint deadline) const;

 private:
  Group(std::shared_ptr<Context> context, base::Rank rank, std::shared_ptr<const Links> links,
        std::uint16_t channel);

  std::shared_ptr<Context> context_;
  base::Rank rank_;
  std::shared_ptr<const Links> links_;  ///< shared by all groups of the same members
  std::uint16_t channel_;
  std::shared_ptr<const Topology> topology_;
  std::uint32_t sequence_ = 0;
  std::shared_ptr<Window> window_;
  bool window_opened_ = false;  ///< or found impossible
  std::vector<std::uint32_t> sent_ = std::vector<std::uint32_t>(links_->size());
  std::vector<std::uint32_t> received_ = std::vector<std::uint32_t>(links_->size());
};

}  // namespace gearshift::group
