#pragma once

#include <string>

#include "gearshift/base/result.h"

namespace gearshift::runtime {

/// Where processes of one host that a foreign launcher started find each other.
struct LocalJob {
  std::string directory;  ///< for the file store; only this user can read it
  std::string token;
};

/// Keyed by the launcher's process (the common parent: its id and start time), so that a later job
/// never meets the leavings of an earlier one. The first process makes the token; the others wait
/// for it. What launchers that have ended left behind is removed. Errors: kIo with path and reason.
base::Result<LocalJob> open_local_job(const std::string& launcher, const std::string& restarts);

}  // namespace gearshift::runtime
