"""Processes of simulations that learn, as forks of one that has imported torch once.

Importing it takes seconds of a processor, as long as many a cell of a study. Run as a program
(``python -m gearshift.sim.forks DESCRIPTOR``), this is the process to fork from. It forks only if
the imports have left it a single thread, for a fork has none of the others. Where it does not
start, simulations have processes that import torch themselves, and compute the same.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import IO

from .._preload import TORCH, preload

_MODULES = (
    *TORCH,
    "gearshift.torch._learner",
    "gearshift.torch._simulated",
    "gearshift.sim.child",
)
_READY, _FORK, _KILL = b"r", b"f", b"k"
_CODE = struct.Struct("=i")
_FAILED = 1


class Forks:
    """The process to fork from, as its parent sees it. Thread-safe."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._ready: bool | None = None
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what cannot be imported is told where it is needed
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
            )

    def usable(self) -> bool:
        """Whether it can fork; waits until it has imported what there is."""
        with self._lock:
            if self._ready is None:
                with contextlib.suppress(OSError):
                    self._ready = self._control.recv(1) == _READY
            return bool(self._ready)

    def start(self, errors: IO[bytes]) -> Forked:
        """A process of :mod:`gearshift.sim.child`, whose stderr is `errors`.

        Raises:
            OSError: when the process to fork from has ended.
        """
        with self._lock:
            return Forked(self._control, errors)

    def kill(self) -> None:
        """End it, and all forks, which die with it."""
        self._process.kill()

    def close(self) -> None:
        """The same, and forget it."""
        self.kill()
        self._process.wait()
        self._control.close()


class Forked:
    """A forked process, used as a `subprocess.Popen` with pipes to stdin and from stdout."""

    def __init__(self, control: socket.socket, errors: IO[bytes]) -> None:
        self._status, theirs = socket.socketpair()
        stdin, write_end = os.pipe()
        read_end, stdout = os.pipe()
        self.stdin: IO[bytes] = os.fdopen(write_end, "wb")
        self.stdout: IO[bytes] = os.fdopen(read_end, "rb")
        self._code: int | None = None
        try:
            descriptors = [stdin, stdout, errors.fileno(), theirs.fileno()]
            socket.send_fds(control, [_FORK], descriptors)
        except OSError:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(stdin)
            os.close(stdout)

    def kill(self) -> None:
        """Nothing happens when it has ended."""
        with contextlib.suppress(OSError):
            self._status.send(_KILL)

    def wait(self) -> int:
        """The exit code, negative for a signal."""
        if self._code is None:
            told = b""
            with contextlib.suppress(OSError):
                told = self._status.recv(_CODE.size)
            # Without an answer the process to fork from was killed, and all forks with it.
            self._code = _CODE.unpack(told)[0] if len(told) == _CODE.size else -signal.SIGKILL
        return self._code

    def communicate(self) -> None:
        """Close both pipes, and wait for the end."""
        self._close()
        self.wait()
        self._status.close()

    def _close(self) -> None:
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):  # what was not sent is not wanted any more
                pipe.close()


class _Server:
    """The process to fork from, as it sees itself."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._forks: dict[int, tuple[int, socket.socket]] = {}
        """By a descriptor that can be read when it ends: the process, and who hears of that."""
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Returns in forks only."""
        while True:
            found = [ready for ready, _ in self._poll.poll()]
            # Last, since a fork may get descriptors of one that has ended.
            for ready in sorted(found, key=lambda ready: ready == self._control.fileno()):
                if ready == self._control.fileno():
                    if self._fork():
                        return
                elif ready in self._forks:
                    self._tell_end(ready)
                else:
                    self._kill(ready)

    def _fork(self) -> bool:
        """Whether this is the fork; ends the process when nobody asks any more."""
        asked, descriptors, _, _ = socket.recv_fds(self._control, 1, 4)
        if not asked:
            os._exit(0)  # forks end by themselves: their parent has gone
        *streams, told = descriptors
        status = socket.socket(fileno=told)
        try:
            pid = os.fork()
        except OSError:  # no process can be had
            os.write(streams[2], traceback.format_exc().encode())
            status.send(_CODE.pack(_FAILED))
            status.close()
            pid = -1
        if pid == 0:
            self._become(streams, status)
            return True
        for descriptor in streams:
            os.close(descriptor)
        if pid > 0:
            process = os.pidfd_open(pid)
            self._forks[process] = pid, status
            self._poll.register(process, select.POLLIN)
            self._poll.register(status, select.POLLIN)
        return False

    def _become(self, streams: list[int], status: socket.socket) -> None:
        """Keep of all descriptors the three streams."""
        self._control.close()
        status.close()
        for process, (_, other) in self._forks.items():
            os.close(process)
            other.close()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)

    def _tell_end(self, process: int) -> None:
        pid, status = self._forks.pop(process)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._poll.unregister(process)
        with contextlib.suppress(KeyError):
            self._poll.unregister(status)
        with contextlib.suppress(OSError):
            status.send(_CODE.pack(code))
        status.close()
        os.close(process)

    def _kill(self, ready: int) -> None:
        """Its parent asks for it, or has gone."""
        for pid, status in self._forks.values():
            if status.fileno() == ready:
                self._poll.unregister(status)
                os.kill(pid, signal.SIGKILL)


def _main(descriptor: int) -> None:
    control = socket.socket(fileno=descriptor)
    os.close(os.pidfd_open(os.getpid()))  # systems without it have no forks
    preload(_MODULES)
    if len(os.listdir("/proc/self/task")) > 1:
        return
    control.send(_READY)
    _Server(control).serve()
    from . import child

    child.main()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
