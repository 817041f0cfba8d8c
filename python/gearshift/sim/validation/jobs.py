"""Paced jobs on network namespaces: one process per rank, each on its host."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ...bench.hosts import Hosts
from ...errors import Error
from ...launch.process import die_with
from ..paced import Training, read_result, write_job

PORT = 29600
_PRIORITY = -10
"""So that other programs of the machine disturb less. Hosts need root already."""
_LAST_CHARACTERS = 1500


@dataclass(frozen=True)
class Job:
    """Processes that run some trainings one after another."""

    worker_hosts: Sequence[int]
    """By rank: the number of its host."""
    server_hosts: Sequence[int] = ()
    trainings: Sequence[Training] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def hosts(self) -> list[int]:
        """By rank of the world, workers first."""
        return [*self.worker_hosts, *self.server_hosts]


def run_job(hosts: Hosts, job: Job, patience: float = 300.0) -> list[list[dict[str, Any]]]:
    """What each worker of each training has seen.

    Raises:
        Error: when a process fails, or all do not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="gearshift-paced-") as name:
        folder = Path(name)
        write_job(folder / "job.json", folder, list(job.trainings))
        module = [sys.executable, "-P", "-m", "gearshift.sim.paced", str(folder / "job.json")]
        run_processes(hosts, job, module, folder, patience)
        return [
            [read_result(folder, number, rank) for rank in range(len(job.worker_hosts))]
            for number in range(len(job.trainings))
        ]


def run_processes(
    hosts: Hosts, job: Job, command: Sequence[str], folder: Path, patience: float
) -> None:
    """Run a command on every rank of a job until all have ended.

    Raises:
        Error: when one fails, or all do not end in time.
    """
    shared = {**_environment(hosts, job), "XDG_CACHE_HOME": str(folder)}  # no links known
    starts = [
        Start([*hosts.enter(host), *command], {**shared, "GEARSHIFT_RANK": str(rank)})
        for rank, host in enumerate(job.hosts)
    ]
    run_commands(starts, folder, patience)


@dataclass(frozen=True)
class Start:
    """A process to be."""

    command: Sequence[str]
    environment: Mapping[str, str]


def run_commands(starts: Sequence[Start], folder: Path, patience: float) -> None:
    """Run processes, before others of the machine, until all have ended; logs go to `folder`.

    Raises:
        Error: when one fails, or all do not end in time; with the end of what it wrote.
    """
    logs: list[IO[bytes]] = []
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank, start in enumerate(starts):
            logs.append((folder / f"{rank}.log").open("wb"))
            processes.append(
                subprocess.Popen(
                    ["nice", "-n", str(_PRIORITY), *start.command],
                    env=dict(start.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=logs[-1],
                    stderr=subprocess.STDOUT,
                    preexec_fn=die_with(os.getpid()),
                )
            )
        _wait(processes, folder, time.monotonic() + patience)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for log in logs:
            log.close()


def own_environment() -> dict[str, str]:
    """That of processes of this library, which know of no job; torch has one thread in them."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }


def _environment(hosts: Hosts, job: Job) -> dict[str, str]:
    return {
        **own_environment(),
        "GEARSHIFT_WORLD_SIZE": str(len(job.hosts)),
        "GEARSHIFT_SERVERS": str(len(job.server_hosts)),
        "GEARSHIFT_NNODES": str(len(set(job.hosts))),
        "GEARSHIFT_RDZV": f"tcp://{hosts.address(job.hosts[0])}:{PORT}",
        "GEARSHIFT_TOKEN": secrets.token_hex(16),
        **job.environment,
    }


def _wait(processes: Sequence[subprocess.Popen[bytes]], folder: Path, deadline: float) -> None:
    while True:
        codes = [process.poll() for process in processes]
        failed = [rank for rank, code in enumerate(codes) if code]
        late = time.monotonic() > deadline
        if failed or late:
            rank = failed[0] if failed else codes.index(None)
            said = (folder / f"{rank}.log").read_text(errors="replace")[-_LAST_CHARACTERS:]
            how = f"ended with code {codes[rank]}" if failed else "was not ready in time"
            raise Error(f"paced job: rank {rank} {how}\n{said}")
        if all(code is not None for code in codes):
            return
        time.sleep(0.02)
