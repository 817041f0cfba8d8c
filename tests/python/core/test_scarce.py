"""A process that has no room for what it needs says so, and is left as it was."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource, signal, threading
import gearshift as gs
from gearshift import _session

opened = _session._open

def open_and_leave_no_room(*arguments):
    session = opened(*arguments)
    for _ in range(8):  # they take the stacks of threads that have ended
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    with open("/proc/self/statm") as pages:
        size = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), resource.RLIM_INFINITY))
    return session

_session._open = open_and_leave_no_room
try:
    gs.init()
except gs.Error as error:
    print(error, flush=True)
print("initialised:", gs.is_initialized(), flush=True)
print("blocked:", len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), flush=True)
"""


def test_without_a_thread_for_signals_they_still_end_the_process() -> None:
    """None stays blocked, as all are in threads that must not take them; and no session is open."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    said, initialised, blocked = done.stdout.splitlines()
    assert "no thread that acts on signals" in said
    assert initialised == "initialised: False"
    assert blocked == "blocked: 0"
    assert done.returncode == 0, done.stderr
