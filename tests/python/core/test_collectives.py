"""Collectives between real processes (see collective_cases.py), on every transport."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid, run_script

CASES = Path(__file__).with_name("collective_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_over_shared_memory(world: int, name: str) -> None:
    check(CASES, name, world, "shm")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES, worlds=range(2, 9)))
def test_over_tcp(world: int, name: str) -> None:
    check(CASES, name, world, "tcp")


def test_workers_that_reduce_differently_are_told_so() -> None:
    script = """
import numpy as np, gearshift as gs
gs.init()
for size in (1, 1000, 100_000):
    for dtype, op in (("float32", "max"), ("int32", "sum")):
        x = np.ones(size, dtype if gs.rank() else "float32")
        try:
            gs.all_reduce(x, op if gs.rank() else "sum")
        except gs.MismatchError as error:
            assert "sum of float32" in str(error) and f"{op} of {dtype}" in str(error), error
            assert error.rank == 1 - gs.rank()
        else:
            raise AssertionError(x)
try:
    gs.all_reduce(np.ones(1000 + gs.rank()))
except gs.MismatchError as error:
    assert "reduces" in str(error) and "bytes, this one" in str(error), error
else:
    raise AssertionError("of different lengths")
assert gs.all_reduce(np.ones(1))[0] == 2
"""
    for process in run_script(script, 2):
        assert process.returncode == 0, process.stderr


def test_different_lengths_over_a_network_are_no_lost_peer() -> None:
    script = """
import numpy as np, gearshift as gs
gs.init()
for size in (1, 1000, 100_000, 3_000_000):
    try:
        gs.all_reduce(np.ones(size + 24 * gs.rank()))
    except gs.MismatchError as error:
        assert f"rank {1 - gs.rank()} sent" in str(error), error
        assert "of all ranks must fit each other" in str(error), error
    else:
        raise AssertionError(size)
assert gs.all_reduce(np.ones(1))[0] == 2
"""
    for process in run_script(script, 2, extra={"GEARSHIFT_TRANSPORTS": "tcp"}):
        assert process.returncode == 0, process.stderr


def test_threads_receive_from_different_workers_at_the_same_time() -> None:
    script = """
import threading, time, numpy as np, gearshift as gs
gs.init(timeout=20)
first, second, word = np.zeros(1), np.zeros(1), np.zeros(1)
if gs.rank() == 0:
    thread = threading.Thread(target=gs.recv, args=(first, 1))
    thread.start()
    time.sleep(0.3)  # into the core
    gs.recv(second, 2)
    gs.send(second, 1)
    thread.join()
    assert (first[0], second[0]) == (1, 2)
elif gs.rank() == 1:
    gs.recv(word, 0)
    gs.send(np.ones(1), 0)
else:
    gs.send(np.full(1, 2.0), 0)
gs.barrier()
"""
    for process in run_script(script, 3):
        assert process.returncode == 0, process.stderr
