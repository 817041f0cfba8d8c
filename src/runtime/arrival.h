#pragma once

#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/rendezvous/store.h"
#include "gearshift/runtime/session.h"

namespace gearshift::runtime {

/// The key under which a launcher, or another rank, says that a rank is lost: its number, a space,
/// and why.
inline constexpr const char* kLostKey = "lost";

/// Says that the rank of `options` has come to the rendezvous and waits for all others, at most
/// until `patience` has passed, or until `options.interrupted` (kAborted). kTimeout names those who
/// have not come. kPeerLost (with the culprit) as soon as one that had come is gone, or is said to
/// be lost: the job can never be complete. kMismatch when this rank is taken by another process,
/// or when the first that came is of a job of another size; in the latter case this rank is lost
/// for the others. Cost: a look around every 250 ms + 10 ms for each rank.
///
/// `news`: the store in which a launcher says who is lost, if that is another one.
///
/// Returns, rank by rank, what each says of itself: `message` is this rank's.
base::Result<std::vector<std::string>> await_everybody(
    base::Scheduler& scheduler, rendezvous::Store& store, rendezvous::Store* news,
    const SessionOptions& options, base::Duration patience, const std::string& message);

/// Whether this rank has come to the rendezvous before, for a session that is over: some of those
/// who had come are gone again. A program may have run before this one, or the job was restarted.
base::Result<bool> is_over(base::Scheduler& scheduler, rendezvous::Store& store, int rank);

}  // namespace gearshift::runtime
