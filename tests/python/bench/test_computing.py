"""Processes that compute beside a rank, for the cases that have other programs on the machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gearshift_testing.processes import await_end

from gearshift.bench import place

ROUNDS = Path(__file__).parents[3] / "bench" / "all_reduce_rounds.py"


def fields_of(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on: parent at 1, ticks in user mode at 11."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def children(pid: int) -> set[int]:
    """The processes that `pid` has started and that have computed for a while."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = fields_of(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and int(fields[11]) >= 3:
            found.add(int(path.name))
    return found


def await_children(pid: int, count: int) -> set[int]:
    """Waits until that many compute."""
    deadline = time.monotonic() + 60
    while len(found := children(pid)) < count:
        assert time.monotonic() < deadline, f"{found} compute"
        time.sleep(0.02)
    return found


def test_python_rounds_have_company_for_as_long_as_they_take():
    spec = importlib.util.spec_from_file_location("all_reduce_rounds", ROUNDS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    known = children(os.getpid())
    with module.computing(2):
        found = await_children(os.getpid(), len(known) + 2) - known
    assert len(found) == 2
    for pid in found:
        await_end(pid)


def test_company_of_a_killed_program_ends_with_it():
    program = place.binary_folder() / "all_reduce"
    if not program.exists():
        pytest.fail(f"{place.binary_folder()} has no programs: run `make build`")
    order = ["bytes=1048576", "operations=100000000", "computing=2"]
    command = [sys.executable, "-m", "gearshift", "run", "-n", "1", "--", str(program), *order]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as launcher:
        (rank,) = await_children(launcher.pid, 1)
        found = await_children(rank, 2)
        os.kill(rank, 9)
        for pid in found:
            await_end(pid)
        assert launcher.wait() == 137
