#pragma once

#include <memory>

#include "gearshift/runtime/session.h"

namespace gearshift::python {

/// Makes two signals work while Python's main thread waits inside the core, where no Python code
/// can run:
///  * SIGUSR1, unless the program handles it: prints the hang reports of all sessions to stderr;
///  * SIGINT, as long as Python's default handler is in force: fails them, so that the call ends
///    and Python raises KeyboardInterrupt.
/// Call from the main thread, with the GIL; once per session. `unwatch_signals` of the last one, or
/// of none that is watched any more, restores the handlers that were replaced.
void watch_signals(std::shared_ptr<runtime::Session> session);
void unwatch_signals(const runtime::Session* session);

}  // namespace gearshift::python
