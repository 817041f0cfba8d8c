#pragma once

#include <string>
#include <vector>

#include "gearshift/base/result.h"

namespace gearshift::runtime {

/// Where processes of one host that a foreign launcher started find each other.
struct LocalJob {
  std::string directory;  ///< for the file store; only this user can read it
  std::string token;
};

/// Keyed by the launcher's process (its id and start time), so that a later job never meets the
/// leavings of an earlier one. It is the nearest ancestor that is not a rank itself: usually the
/// parent; with a wrapper between (`mpirun sh job.sh`), whose environment has the same
/// `rank_variables`, the one before. (A launcher may have some of them, not all: torchrun in a pod
/// that has RANK.) The first process makes the token; the others wait for it. What launchers that
/// have ended left behind is removed. Errors: kIo with path and reason.
base::Result<LocalJob> open_local_job(const std::string& launcher, const std::string& restarts,
                                      const std::vector<std::string>& rank_variables);

/// A token for all of this user's jobs on this host, made when there is none yet, for ranks that
/// have no launcher in common. They meet at a port, so that two jobs cannot mix. Errors: as above.
base::Result<std::string> user_token();

}  // namespace gearshift::runtime
