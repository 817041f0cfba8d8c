"""One started process of a job, with the session of processes that it may have started itself."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator

from .output import LineSplitter, Stream
from .plan import ProcessSpec

_PR_SET_PDEATHSIG = 1
_TAIL_LINES = 20
_libc = ctypes.CDLL(None, use_errno=True)


class RankProcess:
    """A running rank: a child process that leads a session of its own.

    Owned by one :class:`gearshift.launch.job.Job`; not thread-safe.
    """

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self.started = time.monotonic()
        self._popen = subprocess.Popen(
            spec.command,
            env=dict(spec.environment),
            cwd=spec.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self.streams: dict[Stream, int] = {
            "out": self._popen.stdout.fileno(),
            "err": self._popen.stderr.fileno(),
        }
        for descriptor in self.streams.values():
            os.set_blocking(descriptor, False)
        self.splitters: dict[Stream, LineSplitter] = {"out": LineSplitter(), "err": LineSplitter()}
        self.stderr_tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self.returncode: int | None = None
        self.ended: float | None = None
        self.ended_by_launcher = False
        self.frozen = False

    @property
    def pid(self) -> int:
        """Process id, also the id of its session and process group."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the process itself has not been seen to end yet."""
        return self.returncode is None

    @property
    def failed(self) -> bool:
        """Ended with a non-zero code or by a signal, and not because the launcher ended it."""
        return self.returncode not in (None, 0) and not self.ended_by_launcher

    def reap(self) -> bool:
        """Look whether the process has ended, and end what it left behind; True once."""
        if not self.running:
            return False
        # Left as a zombie first, so that its id cannot be reused while its session is searched.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        kill_session(self.pid)
        self.returncode = self._popen.wait()
        self.ended = time.monotonic()
        return True

    def pass_on(self, number: int) -> None:
        """Send a signal that asks to end, to the process and to those that share its group.

        A script that handles it gets it alone, since it is in charge of its children: a checkpoint
        on SIGTERM would fail with the workers of a DataLoader dead.
        """
        if self.spec.is_script and self._is_in(number, "SigCgt:"):
            self.signal_only(number)
        else:
            self.signal_group(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and to those that share its group."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def signal_only(self, number: int) -> None:
        """Send a signal to the process alone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def survives(self, number: int) -> bool:
        """Whether the process catches, ignores or blocks a signal that would end it otherwise."""
        return self._is_in(number, "SigBlk:", "SigIgn:", "SigCgt:")

    def _is_in(self, number: int, *sets: str) -> bool:
        return self.running and bool(_signals_in(self.pid, sets) >> (number - 1) & 1)

    def kill(self) -> None:
        """End the process and its session for good; works for a stopped one too."""
        if self.running:
            kill_session(self.pid)

    def stopped(self) -> bool:
        """Whether it has been stopped by SIGSTOP or a like signal (state T)."""
        return self.running and _stat_fields(self.pid)[:1] == ["T"]

    def close(self, stream: Stream) -> None:
        """Close this end of one of its output pipes."""
        pipe = self._popen.stdout if stream == "out" else self._popen.stderr
        self.streams.pop(stream, None)
        if pipe is not None:
            pipe.close()


def kill_session(session: int) -> None:
    """SIGKILL every process of a session, in whatever group, until none is left."""
    for _ in range(20):
        members = [pid for pid in _all_pids() if _in_session(pid, session)]
        if not members:
            return
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _in_session(pid: int, session: int) -> bool:
    fields = _stat_fields(pid)
    return len(fields) > 3 and fields[0] not in "ZX" and int(fields[3]) == session


def _stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on, past the command name, which may hold spaces."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _signals_in(pid: int, sets: tuple[str, ...]) -> int:
    """Signals in sets of /proc/PID/status: bit n - 1 is signal n; 0 if the process has gone."""
    found = 0
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(sets):
                    found |= int(line.split()[1], 16)
    except OSError:
        pass
    return found


def die_with(launcher: int) -> Callable[[], None]:
    """For the child, before exec: ask the kernel for SIGKILL when the launcher dies."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != launcher:  # it died before the request took effect
            os._exit(1)

    return prepare
