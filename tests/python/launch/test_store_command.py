"""`gearshift store`: jobs meet at a store in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOKEN = "0123456789abcdef" * 4
COMMAND = [sys.executable, "-m", "gearshift.cli"]
JOB = """
import numpy as np
import gearshift as gs
gs.init()
print("sum", gs.all_reduce(np.array([gs.rank() + 1.0]))[0])
"""


@pytest.fixture
def address() -> Iterator[str]:
    server = subprocess.Popen(
        [*COMMAND, "store", "127.0.0.1:0"],
        env={**os.environ, "GEARSHIFT_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    found = re.search(r"127\.0\.0\.1:\d+", server.stdout.readline())
    assert found
    yield found[0]
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=60) == 0


def job(address: str, rank: int, token: str, script: Path) -> subprocess.Popen[str]:
    settings = {
        "GEARSHIFT_RANK": str(rank),
        "GEARSHIFT_WORLD_SIZE": "2",
        "GEARSHIFT_RDZV": f"tcp://{address}",
        "GEARSHIFT_TOKEN": token,
    }
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ranks_meet_at_it(address: str, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB)
    ranks = [job(address, rank, TOKEN, script) for rank in range(2)]
    outputs = [process.communicate(timeout=120) for process in ranks]
    assert [out for out, _ in outputs] == ["sum 3.0\n"] * 2, outputs


def test_who_has_left_its_session_is_told_that_it_was_the_only_one(
    address: str, tmp_path: Path
) -> None:
    """At once: the store does not end with the session, as one of rank 0 does."""
    script = tmp_path / "job.py"
    script.write_text(JOB + "gs.shutdown()\ngs.init(timeout=60)\n")
    ranks = [job(address, rank, TOKEN, script) for rank in range(2)]
    for process in ranks:
        out, errors = process.communicate(timeout=30)
        assert out == "sum 3.0\n", errors
        assert process.returncode == 1
        assert "gearshift.errors.Unsupported: " in errors
        assert "serves one session, which this rank has left" in errors


def test_refuses_a_stranger(address: str, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB)
    stranger = job(address, 0, "f" * 64, script)
    _, errors = stranger.communicate(timeout=120)
    assert stranger.returncode != 0
    assert "token" in errors


@pytest.mark.parametrize("bind", ["nonsense", "127.0.0.1:x", "127.0.0.1:70000"])
def test_bad_address(bind: str) -> None:
    done = subprocess.run(
        [*COMMAND, "store", bind],
        env={**os.environ, "GEARSHIFT_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr
