"""A helper process that cleans up after a launcher that was killed.

The kernel ends the ranks themselves when the launcher dies (PR_SET_PDEATHSIG), but not the
processes that they started, and nobody would remove the rendezvous directory. The warden holds the
reading end of a pipe; when the launcher is gone, however it went, the pipe closes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from typing import NoReturn

from .process import kill_session


class Warden:
    """The launcher's side; start it while the launcher has one thread and no ranks yet."""

    def __init__(self, directory: str | None) -> None:
        reader, self._writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._writer)
            _watch(reader, directory)
        os.close(reader)

    def watch(self, session: int) -> None:
        """From now on, end this session if the launcher goes."""
        self._send(f"+{session}\n")

    def forget(self, session: int) -> None:
        """This session has ended."""
        self._send(f"-{session}\n")

    def dismiss(self) -> None:
        """Let the warden clean up and wait until it has."""
        os.close(self._writer)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _send(self, text: str) -> None:
        with contextlib.suppress(OSError):  # without its warden a job still runs
            os.write(self._writer, text.encode())


def _watch(reader: int, directory: str | None) -> NoReturn:
    try:
        _detach(reader)
        sessions: set[int] = set()
        with os.fdopen(reader, encoding="ascii") as pipe:
            for line in pipe:
                session = int(line[1:])
                if line[0] == "+":
                    sessions.add(session)
                else:
                    sessions.discard(session)
        for session in sessions:
            kill_session(session)
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        os._exit(0)


def _detach(reader: int) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != reader:
            with contextlib.suppress(OSError):
                os.close(int(name))
