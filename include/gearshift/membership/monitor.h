#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/group/group.h"

namespace gearshift::membership {

/// How far a rank had come when it was last heard of.
struct PeerReport {
  base::Rank rank;
  bool alive = true;
  bool left = false;  ///< it has said good-bye
  double seconds_since_heard = 0;
  std::int64_t step = 0;
  std::string operation;
  double seconds_in_operation = 0;
};

/// Failure detection for one group: sends heartbeats that carry this rank's progress, watches those
/// of the others, and makes every survivor give the same account of a failure.
///
/// A peer is lost when its connection breaks without a good-bye, or when it has been silent for the
/// group's timeout. The first rank to see it tells all others (abort service), then every link of
/// this rank is broken with that error, so that everything pending fails with it: no cascade of
/// wrong suspects. A peer that said good-bye is gone, not lost. One Monitor per group that
/// `connect` made; its subgroups are watched with it. Thread-safety: all methods.
class Monitor {
 public:
  /// Starts at once. Heartbeats are sent every min(timeout / 6, 1 s).
  static std::unique_ptr<Monitor> start(const group::Group& group);
  virtual ~Monitor() = default;

  /// The failure that ended the group, if any: code kPeerLost (or what was passed to `fail`),
  /// culprit rank, and a message that names rank, what it last did, and this rank's operation.
  virtual std::optional<base::Error> failure() const = 0;
  /// Reports an error of this rank to all others and ends the group: they fail with kAborted (or
  /// the code itself for kDiverged and kMismatch), naming this rank and the message. A kPeerLost
  /// with a culprit blames the culprit instead. Returns when the others know, or when it has tried
  /// for min(timeout / 8, 1 s).
  virtual void fail(const base::Error& error) = 0;
  /// What is known of every rank, own rank included. For error messages and the hang report.
  virtual std::vector<PeerReport> report() const = 0;
  /// A multi-line text of `report`.
  virtual std::string report_text() const = 0;
  /// Turns a failed operation's error into the account above when the group has failed: waits a
  /// moment (bounded by timeout / 4) for the news to arrive when `error` smells of a lost peer.
  virtual base::Error explain(const base::Error& error) const = 0;
  /// Stops watching before an orderly close, and tells the others that this rank leaves: from then
  /// on its silence and the end of its connections are no loss. Idempotent.
  virtual void stop() = 0;
};

}  // namespace gearshift::membership
