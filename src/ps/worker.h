#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "gearshift/base/bytes.h"
#include "ps/protocol.h"

namespace gearshift::ps {

struct StreamedUpdate;

/// The newest gradient that a worker has staged for one slice.
struct Staged {
  std::uint64_t attempt = 0;  ///< 0: none so far
  base::Buffer gradient;
};

/// A commit that has not been answered.
///
///   received --last gradient is here--> ready --accepted (counted, maybe applied)--> answered
///
/// or, where gradients are applied slice by slice,
///
///   received --update begins--> streaming --last slice is applied--> accepted --> answered
struct PendingCommit {
  std::uint32_t request = 0;
  CommitRecord record;
  std::size_t missing = 0;  ///< staged gradients that it counts on and that are under way
  bool accepted = false;
  bool skipped = false;
  std::int64_t staleness = 0;
  std::int64_t version = 0;  ///< of the parameters that it is answered with; 0: the newest
  std::shared_ptr<StreamedUpdate> update{};  ///< under way, with this commit in it
  bool answers_slices = false;  ///< the worker gets each slice as soon as it is applied
  std::int64_t slowest = 0;     ///< … the first of them with so many steps of each other one
};

/// A worker as a shard sees it.
struct Worker {
  bool active = true;
  std::int64_t step = 0;    ///< of its last accepted commit: steps done so far
  std::int64_t epoch = 0;   ///< of its last accepted commit, or of the furthest when it entered
  double loss = 0;          ///< latest that it gave …
  double loss_samples = 0;  ///< … of so many samples; 0: none
  std::uint64_t closed_attempt = 0;
  std::vector<Staged> staged;  ///< by slice
  std::optional<PendingCommit> pending;

  /// Has a commit of which nothing was done so far.
  bool waits() const { return pending && !pending->accepted && !pending->update; }
  bool ready() const { return waits() && pending->missing == 0; }
  /// The gradient of the slice that the pending commit counts on is here.
  bool has(std::size_t slice) const {
    return staged[slice].attempt == pending->record.attempts[slice];
  }

  std::vector<base::Buffer> take_gradient() {
    std::vector<base::Buffer> gradient;
    gradient.reserve(staged.size());
    for (Staged& s : staged) gradient.push_back(std::move(s.gradient));
    return gradient;
  }
  /// The gradients of the pending commit are over: late ones are dropped from now on.
  void close_attempts() {
    closed_attempt = pending->record.last_attempt;
    drop_gradients();
  }
  void drop_gradients() {
    for (Staged& s : staged) s.gradient = {};
  }
};

}  // namespace gearshift::ps
