"""Jobs of several processes, started from a test."""

from __future__ import annotations

import functools
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .cases import Case, load
from .template import NUMPY, TORCH, Fork, Place, template

PATIENCE = 400.0
"""Seconds until a job that runs cases is taken for hung."""


@dataclass
class Finished:
    """One process of a job that is over."""

    rank: int
    returncode: int
    stdout: str
    stderr: str
    seconds: float


def environment(
    rank: int, world: int, servers: int, directory: Path, token: str, extra: Mapping[str, str]
) -> dict[str, str]:
    """What `gearshift run` would have set."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")},
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "GEARSHIFT_RANK": str(rank),
        "GEARSHIFT_LOCAL_RANK": str(rank),
        "GEARSHIFT_WORLD_SIZE": str(world + servers),
        "GEARSHIFT_SERVERS": str(servers),
        "GEARSHIFT_RDZV": f"file://{directory}",
        "GEARSHIFT_TOKEN": token,
        "GEARSHIFT_TIMEOUT": "60",
        **extra,
    }


class Job:
    """The processes of one job; ends them all when left.

    With `forked` they are forks of a process that has imported `modules`: seconds each for PyTorch.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        world: int,
        servers: int = 0,
        extra: Mapping[str, str] | None = None,
        *,
        forked: bool = False,
        modules: tuple[str, ...] = TORCH,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gearshift-test-")
        token = secrets.token_hex(16)
        rendezvous = Path(self._directory.name) / "rendezvous"
        rendezvous.mkdir(mode=0o700)
        places = [
            Place(
                environment(rank, world, servers, rendezvous, token, extra or {}),
                self._path(rank, "out"),
                self._path(rank, "err"),
            )
            for rank in range(world + servers)
        ]
        for place in places:
            place.out.touch(0o600)
            place.err.touch(0o600)
        self._started = time.monotonic()
        self.processes: Sequence[subprocess.Popen[bytes] | Fork] = (
            template(modules).start(arguments, places, Path.cwd())
            if forked
            else [_started(arguments, place) for place in places]
        )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        self._directory.cleanup()

    def output(self, rank: int, stream: str = "err") -> str:
        """What a process has written so far."""
        return self._path(rank, stream).read_text(errors="replace")

    def wait(self, patience: float) -> list[Finished]:
        """Wait until all processes have ended."""
        deadline = self._started + patience
        finished: dict[int, Finished] = {}
        while len(finished) < len(self.processes):
            for rank, process in enumerate(self.processes):
                code = process.poll()
                if rank not in finished and code is not None:
                    seconds = time.monotonic() - self._started
                    out, err = self.output(rank, "out"), self.output(rank)
                    finished[rank] = Finished(rank, code, out, err, seconds)
            if time.monotonic() > deadline:
                missing = sorted(set(range(len(self.processes))) - set(finished))
                tails = "\n".join(f"rank {r}: {self.output(r)[-2000:]}" for r in missing)
                pytest.fail(f"after {patience:g} s ranks {missing} still run\n{tails}")
            time.sleep(0.02)
        return [finished[rank] for rank in sorted(finished)]

    def _path(self, rank: int, stream: str) -> Path:
        return Path(self._directory.name) / f"{rank}.{stream}"


def _started(arguments: Sequence[str], place: Place) -> subprocess.Popen[bytes]:
    with place.out.open("ab") as out, place.err.open("ab") as err:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=place.environment,
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
        )


def run_script(
    text: str,
    world: int,
    servers: int = 0,
    extra: Mapping[str, str] | None = None,
    patience: float = 120.0,
    *,
    forked: bool = False,
) -> list[Finished]:
    """Run a Python program on every process of a job, until all have ended."""
    with Job(["-c", text], world, servers, extra, forked=forked) as job:
        return job.wait(patience)


@functools.cache
def _cases(path: Path) -> tuple[Case, ...]:
    return tuple(load(path))


def grid(path: Path, worlds: Sequence[int] | None = None) -> list[tuple[int, str]]:
    """All (number of workers, name of the case) of a file, ordered by job."""
    found = {(w, c.servers, c.name) for c in _cases(path) for w in c.worlds}
    order = [c.name for c in _cases(path)]
    return [
        (world, name)
        for world, _, name in sorted(found, key=lambda f: (f[0], f[1], order.index(f[2])))
        if worlds is None or world in worlds
    ]


@functools.cache
def _outcomes(path: Path, world: int, servers: int, transports: str) -> dict[str, str]:
    """Runs all cases of a file in one job. What went wrong, by case; "" when nothing did."""
    names = [c.name for c in _cases(path) if world in c.worlds and c.servers == servers]
    extra = {"GEARSHIFT_TRANSPORTS": transports} if transports else {}
    worker = str(Path(__file__).with_name("worker.py"))
    modules = TORCH if "import torch" in path.read_text() else NUMPY
    command = [worker, str(path), *names]
    with Job(command, world, servers, extra, forked=True, modules=modules) as job:
        finished = job.wait(PATIENCE)
    outcomes = dict.fromkeys(names, "")
    for process in finished[:world]:
        reported = [json.loads(line) for line in process.stdout.splitlines() if line[:1] == "{"]
        for report in reported:
            if report["problem"]:
                outcomes[report["case"]] += f"rank {process.rank}: {report['problem']}\n"
        for name in names[len(reported) :]:
            outcomes[name] += f"rank {process.rank} ended before ({process.returncode})\n"
            outcomes[name] += process.stderr[-3000:]
        if process.returncode != 0 and len(reported) == len(names):
            outcomes[names[-1]] += f"rank {process.rank} exited with {process.returncode} "
            outcomes[names[-1]] += f"after the last case\n{process.stderr[-3000:]}"
    for process in finished[world:]:
        if process.returncode != 0:
            outcomes[names[-1]] += f"server {process.rank} exited with {process.returncode}\n"
            outcomes[names[-1]] += process.stderr[-3000:]
    return outcomes


def check(path: Path, name: str, world: int, transports: str = "") -> None:
    """Fail unless the case went well on all ranks (runs the job of its file when needed)."""
    servers = next(c.servers for c in _cases(path) if c.name == name)
    problem = _outcomes(path, world, servers, transports)[name]
    if problem:
        pytest.fail(problem, pytrace=False)
