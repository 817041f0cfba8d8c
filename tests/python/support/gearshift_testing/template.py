"""Processes that have imported PyTorch already, which takes seconds, as forks of one that has.

Run as a program (`server.py MODULE...`) that one imports the modules, then reads requests, lines of
JSON, until its input ends: what `python` would be given as arguments, and environment, folder and
files for each fork. It answers with a line for each start, ["pid", number, process id], and one for
each end, ["code", number, exit code].
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TORCH = ("torch", "torch._dynamo", "gearshift.torch")
"""The first optimizer imports the second."""
NUMPY = ("numpy", "pytest")
"""For jobs that are to find no PyTorch imported."""


@dataclass(frozen=True)
class Place:
    """What a fork has of its own."""

    environment: Mapping[str, str]
    out: Path
    err: Path


class Fork:
    """A started process, used as a `subprocess.Popen`."""

    def __init__(self, template: Template, number: int) -> None:
        self._template = template
        self._number = number
        self.pid = template.pid_of(number)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self._template.receive(0.0)
            self.returncode = self._template.codes.pop(self._number, None)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: after so many seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0.0)
            self._template.receive(left)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens when it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Template:
    """The process to fork from. It and its forks are a process group of their own."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py")), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._numbers = itertools.count()
        self._unread = b""
        self._pids: dict[int, int] = {}
        self.codes: dict[int, int] = {}

    def start(self, arguments: Sequence[str], places: Sequence[Place], folder: Path) -> list[Fork]:
        """Run `python ARGUMENTS` in `folder` once in each place."""
        numbers = list(itertools.islice(self._numbers, len(places)))
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "forks": [
                {"number": n, "environment": dict(p.environment), "logs": [str(p.out), str(p.err)]}
                for n, p in zip(numbers, places, strict=True)
            ],
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return [Fork(self, number) for number in numbers]

    def pid_of(self, number: int) -> int:
        """Wait until this fork has started."""
        while number not in self._pids:
            self.receive(None)
        return self._pids.pop(number)

    def receive(self, timeout: float | None) -> None:
        """Take the answers that are there, or that come within so many seconds."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return
        text = os.read(self._process.stdout.fileno(), 1 << 16)
        if not text:
            raise RuntimeError("the process to fork from has ended; its errors are above")
        *lines, self._unread = (self._unread + text).split(b"\n")
        for kind, number, value in map(json.loads, lines):
            (self._pids if kind == "pid" else self.codes)[number] = value

    @property
    def usable(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None


_kept: dict[tuple[str, ...], Template] = {}


def template(modules: tuple[str, ...] = TORCH) -> Template:
    """The one of this test process that has imported these.

    It ends with its input, so with this process at the latest.
    """
    if modules not in _kept or not _kept[modules].usable:
        _kept[modules] = Template(modules)
    return _kept[modules]


def run_python(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run([sys.executable, *arguments], ...)` with PyTorch imported already.

    Writes its output to files in `cwd` first, so that it can be of any length.
    """
    logs = Path(cwd) / ".out", Path(cwd) / ".err"
    for path in logs:
        path.write_bytes(b"")
    (fork,) = template().start(arguments, [Place(env, *logs)], Path(cwd))
    try:
        code = fork.wait(timeout)
    finally:
        fork.send_signal(signal.SIGKILL)
    out, err = (path.read_text(errors="replace") for path in logs)
    return subprocess.CompletedProcess([sys.executable, *arguments], code, out, err)
