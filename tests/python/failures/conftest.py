"""Real jobs of `toy_trainer` (tests/multiprocess) under `gearshift run`, seen from outside.

GEARSHIFT_TEST_BIN_DIR names the folder of the program; without it the release build is used.
Nothing here takes a busy machine for a broken one: what must happen may take up to PATIENCE.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gearshift_testing.ports import reserved_port

import gearshift.launch

PACKAGE_ROOT = Path(gearshift.launch.__file__).parents[2]
PATIENCE = 90.0
"""Seconds until a test takes a job for hung."""
TICK = 0.02


def wait_until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Poll until a condition holds; a failure that says `what` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience:g} s in vain: {what}"
        time.sleep(TICK)


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    return stat_fields(pid)[:1] not in ([], ["Z"], ["X"])


def processes_with(marker: str) -> list[int]:
    """Living processes that were started with `marker` somewhere in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            inherits = marker.encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        if inherits and is_alive(int(entry.name)):
            found.append(int(entry.name))
    return found


@dataclass(frozen=True)
class Place:
    """Where a rank says it is."""

    pid: int
    phase: str
    """start, serve, all_reduce, local_sgd, server, switch (to the server), back or end."""
    step: int


@dataclass
class Job:
    """One launcher with its ranks; the last `servers` of them are dedicated servers."""

    folder: Path
    process: subprocess.Popen[bytes]
    workers: int
    servers: int
    timeout: float
    first_rank: int = 0
    """Of this node."""
    victim: int | None = None
    hit_at: float = 0.0
    """When the victim was killed or stopped, on the monotonic clock."""
    ends: dict[int, float] = field(default_factory=dict)
    """Seconds from then until a survivor had ended."""
    pids: dict[int, int] = field(default_factory=dict)

    @property
    def ranks(self) -> range:
        return range(self.first_rank, self.first_rank + self.workers + self.servers)

    def is_server(self, rank: int) -> bool:
        return rank >= self.first_rank + self.workers

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    def words_of(self, rank: int) -> str:
        """What a rank wrote to stderr."""
        label = f"s{rank - self.first_rank - self.workers}" if self.is_server(rank) else rank
        mark = f"[{label}] "
        return "\n".join(
            line.removeprefix(mark) for line in self.err.splitlines() if line.startswith(mark)
        )

    def result(self) -> list[float]:
        """The parameters that rank 0 printed."""
        found = re.search(r"result (.*)", self.out)
        assert found, f"no result:\n{self.err}"
        return [float(number) for number in found[1].split()]

    def place(self, rank: int) -> Place | None:
        """Where the rank says it is; None before it said anything."""
        try:
            pid, phase, step = (self.folder / f"rank-{rank}").read_text().split()
        except OSError:
            return None
        self.pids[rank] = int(pid)
        return Place(int(pid), phase, int(step))

    def has_come(self, phases: Sequence[str], step: int = 0) -> bool:
        """Whether every worker is in one of `phases`, `step` steps or further."""
        assert self.process.poll() is None, f"ended too early:\n{self.err}"
        places = [self.place(rank) for rank in self.ranks]
        return all(
            place is not None
            and (self.is_server(rank) or (place.phase in phases and place.step >= step))
            for rank, place in zip(self.ranks, places, strict=True)
        )

    def await_phase(self, *phases: str, step: int = 0) -> None:
        wait_until(lambda: self.has_come(phases, step), f"{self.folder.name} reaches {phases}")

    def hit(self, rank: int, number: int) -> None:
        """Send a signal to a rank that has reported its process id."""
        self.victim = rank
        self.hit_at = time.monotonic()
        os.kill(self.pids[rank], number)

    def observe(self) -> bool:
        """Note which survivors have ended; True when the launcher has, too."""
        now = time.monotonic() - self.hit_at
        for rank in self.ranks:
            self.place(rank)  # it may have come to life after the blow
        for rank, pid in self.pids.items():
            if rank not in self.ends and rank != self.victim and not is_alive(pid):
                self.ends[rank] = now
        return self.process.poll() is not None

    @staticmethod
    def lost_in(words: str, rank: str) -> re.Match[str] | None:
        """The place where a process says that it lost a rank (a pattern)."""
        return re.search(rf"peer_lost: .*rank {rank} (died|is lost|has been silent)", words)

    def named_files_in_memory(self) -> list[str]:
        """Shared-memory segments with a name in the file system that ranks have mapped."""
        lines = [
            line
            for pid in self.pids.values()
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        ]
        return [line for line in lines if "/dev/shm/" in line and "(deleted)" not in line]

    def leavings(self) -> list[str]:
        """What the job left behind: processes and rendezvous directories."""
        found = [f"process {pid}" for pid in processes_with(str(self.folder))]
        return found + [str(path) for path in (self.folder / "tmp").iterdir()]

    def end(self) -> None:
        """Kill whatever still runs (after a failed test)."""
        for pid in processes_with(str(self.folder)):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> int:
        """Wait for the launcher's end; its exit code."""
        wait_until(lambda: self.process.poll() is not None, f"{self.folder.name} ends")
        return self.process.returncode


@dataclass
class Jobs:
    """Starts jobs that run side by side, each in a folder of its own."""

    folder: Path
    program: Path
    started: list[Job] = field(default_factory=list)

    def start(
        self,
        name: str,
        *arguments: str,
        workers: int = 4,
        servers: int = 0,
        timeout: float = 30.0,
        first_rank: int = 0,
        launcher: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> Job:
        """`WITHIN gearshift run -n WORKERS LAUNCHER -- toy_trainer ARGUMENTS`, not waited for."""
        folder = self.folder / name
        (folder / "tmp").mkdir(parents=True)
        command = [
            *within,
            *(sys.executable, "-m", "gearshift.cli", "run", "-n", str(workers)),
            *("--servers", str(servers), "--timeout", str(timeout), *launcher),
            *("--", str(self.program), "--progress", str(folder), *arguments),
        ]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment({"TMPDIR": str(folder / "tmp"), **(env or {})}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        job = Job(folder, process, workers, servers, timeout, first_rank)
        self.started.append(job)
        return job

    def observe(self, jobs: Sequence[Job], patience: float = PATIENCE) -> None:
        """Watch jobs to their end, so that `ends` says when each process ended."""
        waiting = list(jobs)
        deadline = time.monotonic() + patience
        while waiting and time.monotonic() < deadline:
            waiting = [job for job in waiting if not job.observe()]
            time.sleep(TICK)
        hung = [f"{job.folder.name}:\n{job.err}" for job in waiting]
        assert not hung, "\n".join(["jobs hang", *hung])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without what a launcher above the tests may have set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GEARSHIFT_", "OMP_"))}
    return {**kept, "PYTHONPATH": str(PACKAGE_ROOT), "NO_COLOR": "1", **(extra or {})}


def check_account(text: str, victim: int, ranks: Sequence[int]) -> None:
    """A survivor's last words name the victim, operations, and the progress of each rank."""
    said = re.search(
        rf"^toy_trainer: .*rank {victim} (died|is lost|has been silent)\b.*"
        r" while it was .*; this rank \d+ was ",
        text,
        re.MULTILINE,
    )
    assert said, f"rank {victim} is not named as lost:\n{text}"
    for rank in ranks:
        line = re.search(rf"^  rank {rank}\b.*: step \d+, \w", text, re.MULTILINE)
        assert line, f"no progress of rank {rank}:\n{text}"
    lost = re.findall(r"^  rank (\d+) LOST: ", text, re.MULTILINE)
    assert lost == [str(victim)], f"not rank {victim} alone is lost:\n{text}"


def check_contract(job: Job) -> None:
    """What a user may rely on after a rank was killed or stopped: all but the times."""
    assert job.victim is not None
    name = f"rank {job.victim}"
    if job.is_server(job.victim):
        name = f"server {job.victim - job.workers} (rank {job.victim})"
    assert job.process.returncode == 128 + signal.SIGKILL, job.err
    assert re.search(rf"{re.escape(name)} failed first: (killed by SIGKILL|frozen)", job.err)
    assert "ended by the launcher" not in job.err, job.err
    assert not re.search(r"then (killed by|exited with (?!75\b))", job.err), job.err
    survivors = [rank for rank in job.ranks if rank != job.victim]
    assert sorted(job.ends) == survivors, job.err
    for rank in survivors:
        check_account(job.words_of(rank), job.victim, job.ranks)
    check_clean(job)


def check_clean(job: Job) -> None:
    """No process and no rendezvous directory is left."""
    wait_until(lambda: not job.leavings(), f"{job.folder.name} leaves {job.leavings()}", 15.0)


@dataclass
class FailureTable:
    """How long survivors took to end, for each kind of failure."""

    seconds: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    wrong: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def add(self, case: Any, verdict: str) -> None:
        _, _, victim, number = case.name.split("-")
        key = (number, case.moment, victim if case.moment == "mid-run" else "any rank")
        self.seconds.setdefault(key, []).append(max(case.job.ends.values(), default=0.0))
        self.wrong[key] = self.wrong.get(key, 0) + (verdict != "ok")

    def lines(self) -> Iterator[str]:
        yield f"{'signal':<9}{'moment':<13}{'victim':<10}{'jobs':>5}{'wrong':>7}" + (
            f"{'median':>9}{'slowest':>9}"
        )
        for key in sorted(self.seconds):
            times = self.seconds[key]
            yield f"{key[0]:<9}{key[1]:<13}{key[2]:<10}{len(times):>5}{self.wrong[key]:>7}" + (
                f"{statistics.median(times):>7.2f} s{max(times):>7.2f} s"
            )


TABLE = pytest.StashKey[FailureTable]()


@pytest.fixture(scope="session")
def failure_table(pytestconfig: pytest.Config) -> FailureTable:
    """Collects what the summary of `make chaos` shows."""
    return pytestconfig.stash.setdefault(TABLE, FailureTable())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    table = config.stash.get(TABLE, None)
    if table is not None:
        terminalreporter.section("seconds from the failure to the end of the last survivor")
        for line in table.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def toy_trainer() -> Path:
    """The program that the jobs run."""
    folder = os.environ.get("GEARSHIFT_TEST_BIN_DIR")
    default = PACKAGE_ROOT.parent / "build" / "release" / "tests" / "multiprocess"
    program = (Path(folder) if folder else default) / "toy_trainer"
    if not program.exists():
        pytest.fail(f"{program} is missing: run `make build`, or set GEARSHIFT_TEST_BIN_DIR")
    return program


@pytest.fixture
def jobs(tmp_path: Path, toy_trainer: Path) -> Iterator[Jobs]:
    """Starts jobs; what still runs after the test is killed."""
    result = Jobs(tmp_path, toy_trainer)
    yield result
    for job in result.started:
        job.end()


def fit(workers: int, steps: int) -> list[float]:
    """What toy_trainer must arrive at under All-Reduce: one process with all rows."""
    width, rows = 12, 8
    i, j = np.arange(rows), np.arange(width + 1)
    table = np.concatenate(
        [np.sin(1.0 + 11 * rank + 3 * i[:, None] + 7.0 * j) for rank in range(workers)]
    )
    x = np.hstack([table[:, :width], np.ones((len(table), 1))])
    y = table[:, width]
    solution, momentum = np.zeros(width + 1), np.zeros(width + 1)
    for _ in range(steps):
        momentum = 0.5 * momentum + 2 * x.T @ (x @ solution - y) / len(y)
        solution = solution - 0.02 * momentum
    return list(solution)


@pytest.fixture
def expected_result() -> Callable[[int, int], list[float]]:
    return fit


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody else gets before the test is over."""
    with reserved_port() as port:
        yield port


@pytest.fixture
def contract() -> Callable[[Job], None]:
    return check_contract


@pytest.fixture
def clean() -> Callable[[Job], None]:
    return check_clean


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def clean_env() -> Callable[..., dict[str, str]]:
    return environment
