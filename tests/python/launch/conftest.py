"""Runs `gearshift run` as users do, on small scripts that need nothing of gearshift."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

import gearshift.launch

PACKAGE_ROOT = Path(gearshift.launch.__file__).parents[2]
PATIENCE = 60.0
"""Seconds until a test takes a process for hung; ten times what a busy machine needs."""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without what a launcher above the tests may have set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GEARSHIFT_", "OMP_"))}
    return {**kept, "PYTHONPATH": str(PACKAGE_ROOT), "NO_COLOR": "1", **(extra or {})}


@dataclass
class Launcher:
    """Starts launchers in a folder of their own."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def script(self, *parts: str, name: str = "script.py") -> str:
        """Write a script; its first lines import what most need."""
        path = self.folder / name
        head = (
            "import os, signal, subprocess, sys, time\nrank = int(os.environ['GEARSHIFT_RANK'])\n"
        )
        path.write_text(head + "\n".join(textwrap.dedent(part) for part in parts))
        return str(path)

    def start(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start `gearshift run ARGUMENTS` without waiting for it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "gearshift.cli", "run", *arguments],
            cwd=self.folder,
            env=clean_environment(env),
            stdout=stdout,
            stderr=stderr,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run `gearshift run ARGUMENTS` to its end."""
        return finish(self.start(*arguments, env=env))

    def wait_for_files(self, *names: str) -> list[str]:
        """The contents of files, once they exist and end with a newline."""
        paths = [self.folder / name for name in names]
        wait_until(lambda: all(p.exists() and p.read_text().endswith("\n") for p in paths))
        return [path.read_text().strip() for path in paths]


@dataclass(frozen=True)
class Ended:
    """How a launcher ended."""

    code: int
    out: str
    err: str


def finish(process: subprocess.Popen[bytes]) -> Ended:
    """Wait for a launcher; a hang is a failure."""
    out, err = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until a condition holds; a failure after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """A launcher whose processes are ended after the test."""
    result = Launcher(tmp_path)
    yield result
    for process in result.started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    return wait_until


@pytest.fixture
def ended() -> Callable[[subprocess.Popen[bytes]], Ended]:
    return finish


@pytest.fixture
def clean_env() -> Callable[..., dict[str, str]]:
    return clean_environment
