"""The rounds of an all-reduce from Python; the same as support/all_reduce_rounds.cc does in C++."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gearshift.bench.gate import Gate

PERIOD = 7
"""Of the pattern: odd, so that no block of a power of two repeats."""

COMPUTE = """
import os
parent = {parent}
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""
"""What a process does that computes beside a rank, while the rank is there."""


def serve_all_reduce(
    gate: Gate,
    allocate: Callable[[int], tuple[np.ndarray, Any]],
    all_reduce: Callable[[Any], Any],
    rank: int,
    ranks: int,
) -> None:
    """Serve the gate's orders until there are none. `computing`: how many processes compute.

    Args:
        gate: where the orders come from.
        allocate: an array of so many float32, and what `all_reduce` takes for it. Collective.
        all_reduce: sums it over all ranks, in place.
        rank: this process's.
        ranks: how many there are.
    """
    array, subject = np.empty(0, np.float32), None
    for order in gate:
        count = int(order.get("bytes", "1048576")) // 4
        batches, operations = int(order.get("batches", "5")), int(order.get("operations", "10"))
        if array.size != count or subject is None:
            array, subject = allocate(count)
        with computing(int(order.get("computing", "0"))):
            problem = _checked(array, subject, all_reduce, rank, ranks)
            array[:] = 0  # zeros stay zeros: no overflow, no subnormal numbers
            all_reduce(subject)
            seconds = []
            for _ in range(batches):
                begin = time.perf_counter()
                for _ in range(operations):
                    all_reduce(subject)
                seconds.append((time.perf_counter() - begin) / operations)
            problem = _checked(array, subject, all_reduce, rank, ranks) or problem
        gate.report(
            seconds=seconds,
            verified=not problem,
            problem=problem,
            operations=batches * operations + 3,
        )


@contextlib.contextmanager
def computing(count: int) -> Iterator[None]:
    """So many processes of this session compute meanwhile, as those that load data do."""
    loop = COMPUTE.format(parent=os.getpid())
    processes = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", loop]))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _checked(
    array: np.ndarray, subject: Any, all_reduce: Callable[[Any], Any], rank: int, ranks: int
) -> str:
    """One all-reduce of known numbers; says what is wrong with the result."""
    pattern = np.arange(array.size, dtype=np.int32) % PERIOD + 1
    array[:] = pattern * (rank + 1)
    all_reduce(subject)
    wrong = np.flatnonzero(array != pattern * (ranks * (ranks + 1) // 2))
    if wrong.size == 0:
        return ""
    return f"{wrong.size} of {array.size} elements are wrong, the first is {wrong[0]}"
