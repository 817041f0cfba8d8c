#include "runtime/arrival.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "gearshift/base/log.h"

namespace gearshift::runtime {
namespace {

using base::Error;
using base::ErrorCode;

base::Duration pause_between_looks(int world_size) {
  return std::chrono::milliseconds(250 + 10 * world_size);
}

std::string arrival_key(int rank) { return "arrived/" + std::to_string(rank); }

/// Why the job can never be complete, if it is known. Who finds out first tells all, so that all
/// name the same rank, and not one that has only drawn its conclusion.
base::Status look_around(base::Scheduler& scheduler, rendezvous::Store& store,
                         base::Duration pause) {
  GEARSHIFT_ASSIGN_OR_RETURN(const std::string absentee, store.absentee());
  base::Result<std::string> lost = store.get(kLostKey, scheduler.now());
  if (!lost && lost.error().code != ErrorCode::kTimeout) return lost.error();
  if (!lost) {
    if (absentee.empty()) return {};
    lost = absentee + " it died";
    GEARSHIFT_RETURN_IF_ERROR(store.set(kLostKey, *lost));
  }
  // This rank may be the one that serves the store: the others must have time to read it.
  scheduler.sleep_for(2 * pause);
  const std::size_t space = lost->find(' ');
  const std::string rank = lost->substr(0, space);
  const std::string why = space == std::string::npos ? "" : lost->substr(space + 1);
  return Error(ErrorCode::kPeerLost,
               "rank " + rank + " is lost before all have come to the rendezvous " +
                   store.address() + ": " + why,
               std::atoi(rank.c_str()));
}

/// What the rank says of itself; nothing when it has not come by the deadline.
base::Result<std::optional<std::string>> await(base::Scheduler& scheduler, rendezvous::Store& store,
                                               int rank, const SessionOptions& options,
                                               base::TimePoint deadline) {
  const base::Duration pause = pause_between_looks(options.world_size);
  while (true) {
    const base::TimePoint slice = std::min(deadline, scheduler.after(pause));
    base::Result<std::string> here = store.get(arrival_key(rank), slice);
    if (here) return std::optional<std::string>(std::move(*here));
    if (here.error().code != ErrorCode::kTimeout) return here.error();
    GEARSHIFT_RETURN_IF_ERROR(options.go_on());
    GEARSHIFT_RETURN_IF_ERROR(look_around(scheduler, store, pause));
    if (slice >= deadline) return std::optional<std::string>();
  }
}

}  // namespace

base::Result<std::vector<std::string>> await_everybody(base::Scheduler& scheduler,
                                                       rendezvous::Store& store,
                                                       const SessionOptions& options,
                                                       base::Duration patience,
                                                       const std::string& message) {
  const base::TimePoint deadline = scheduler.after(patience);
  GEARSHIFT_RETURN_IF_ERROR(store.attend(std::to_string(options.rank)));
  GEARSHIFT_RETURN_IF_ERROR(store.set(arrival_key(options.rank), message));
  GEARSHIFT_LOG_AT(kDebug, "runtime", "came to the rendezvous " << store.address());
  std::vector<std::string> messages;
  std::string missing;
  for (int r = 0; r < options.world_size; ++r) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto here, await(scheduler, store, r, options, deadline));
    messages.push_back(here.value_or(""));
    if (!here) missing += (missing.empty() ? "" : ", ") + std::to_string(r);
  }
  if (missing.empty()) return messages;
  return Error(ErrorCode::kTimeout,
               "after " + std::to_string(static_cast<int>(base::to_seconds(patience))) +
                   " s these of " + std::to_string(options.world_size) +
                   " processes have not come to the rendezvous " + store.address() + ": rank " +
                   missing);
}

}  // namespace gearshift::runtime
