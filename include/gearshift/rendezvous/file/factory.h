#pragma once

#include <memory>
#include <string>

#include "gearshift/rendezvous/store.h"

namespace gearshift::rendezvous::file {

/// A store in a directory (made with mode 0700 when absent). Works between processes of one host,
/// or over a shared file system with POSIX rename and locks. A directory that other users can
/// write to is refused.
base::Result<std::unique_ptr<Store>> open(base::Scheduler& scheduler, const std::string& directory);

}  // namespace gearshift::rendezvous::file
