#pragma once

#include <functional>
#include <memory>
#include <string>

#include "gearshift/base/scheduler.h"

namespace gearshift::base {

/// How long whoever starts a job asks for a thread that the system does not give at once: others
/// that start beside it may have taken all, and give them back.
inline constexpr Duration kThreadPatience = std::chrono::seconds(3);

/// Scheduler::spawn, asked again while there is no thread to have (EAGAIN), until kThreadPatience
/// has passed; then its std::system_error. Not for a task that others wait for meanwhile.
std::unique_ptr<Task> spawn_patiently(Scheduler& scheduler, const std::string& name,
                                      const std::function<void()>& body);

/// Which limit leaves this process no thread, and what to do: that of its control group (pids.max),
/// of its user (ulimit -u), or of its memory (ulimit -v); where none of them is reached by now, the
/// system's. Looks through /proc: for messages only.
std::string scarce_threads();

}  // namespace gearshift::base
