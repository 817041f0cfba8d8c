"""Ctrl-C while a process joins a job whose other processes stand still."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gearshift_testing.jobs import Job
from gearshift_testing.ports import reserved_port

from gearshift.launch import EXIT_PEER_LOST

PATIENCE = 90.0
TIMEOUT = "3600"
"""Of the job: without what is tested here, that long is waited."""
SCRIPT = """
import os, time
import gearshift as gs
while os.environ["GEARSHIFT_RANK"] != "1" and not os.path.exists({signal!r}):
    time.sleep(0.01)
gs.init()
"""


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def started(tmp_path: Path, world: int, rdzv: str, **variables: str) -> Job:
    extra = {"GEARSHIFT_LOG": "debug", "GEARSHIFT_TIMEOUT": TIMEOUT, "GEARSHIFT_RDZV": rdzv}
    script = SCRIPT.format(signal=str(tmp_path / "go"))
    return Job(["-c", script], world, extra={**extra, **variables})


def ends_by_its_interrupt(job: Job, rank: int) -> None:
    job.processes[rank].send_signal(signal.SIGINT)
    eventually(lambda: job.processes[rank].poll() is not None)
    assert job.processes[rank].poll() == -signal.SIGINT
    assert "KeyboardInterrupt" in job.output(rank)


@pytest.mark.parametrize("rank", [0, 2])
def test_while_another_does_not_come_to_the_meeting(tmp_path: Path, rank: int) -> None:
    """Rank 1 stops when all know that it has come; the third process is told."""
    store = tmp_path / "store"
    with started(tmp_path, 3, f"file://{store}") as job:
        eventually(lambda: "came to the rendezvous" in job.output(1))
        job.processes[1].send_signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        for present in (0, 2):  # connecting
            eventually((store / f"group%2F1%2Frank%2F{present}").exists)
        ends_by_its_interrupt(job, rank)
        other = 2 - rank
        eventually(lambda: job.processes[other].poll() is not None)
        assert job.processes[other].poll() == EXIT_PEER_LOST
        words = job.output(other)
        assert f"rank {rank} is lost while all connect: interrupted" in words, words


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_while_another_stands_still_in_the_middle(tmp_path: Path, transport: str) -> None:
    """Wherever that is: it writes to a pipe that nobody reads, and measures links at length."""
    with started(
        tmp_path, 2, f"file://{tmp_path}/store", GEARSHIFT_TRANSPORTS=transport,
        GEARSHIFT_CALIBRATE="force",
    ) as job:  # fmt: skip
        eventually(lambda: "came to the rendezvous" in job.output(1))
        (tmp_path / "go").touch()
        eventually((tmp_path / "store" / "group%2F1%2Frank%2F1").exists)
        job.processes[1].send_signal(signal.SIGSTOP)
        time.sleep(1.0)  # rank 0 comes as far as it can
        ends_by_its_interrupt(job, 0)


def test_while_the_rendezvous_stands_still(tmp_path: Path) -> None:
    """Rank 1 has come there when rank 0, which serves it, is stopped."""
    with reserved_port() as port:
        (tmp_path / "go").touch()
        with started(tmp_path, 3, f"tcp://127.0.0.1:{port}") as job:
            job.processes[2].send_signal(signal.SIGSTOP)  # before it has imported anything
            eventually(lambda: "came to the rendezvous" in job.output(1))
            job.processes[0].send_signal(signal.SIGSTOP)
            time.sleep(1.0)  # rank 1 asks for news
            ends_by_its_interrupt(job, 1)
