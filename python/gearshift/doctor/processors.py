"""Processors: how many there are for how many threads, and what they can do."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

from .cgroup import read_limit
from .finding import Finding, ok, warning

_BASELINE = ("SCALAR", "EMU128", "SSE2", "SSSE3", "SSE4")
"""What Highway calls instruction sets without the wide vectors that processors have since 2015."""


@dataclass(frozen=True)
class Processors:
    """Of this machine, for `ranks` processes of a job here."""

    online: int
    allowed: int
    """By affinity (taskset, numactl, cpusets, a launcher's binding)."""
    quota: float | None
    """By the control group, in processors."""
    load: float
    simd: str | None
    ranks: int
    omp_threads: str | None
    """The text of OMP_NUM_THREADS."""

    @staticmethod
    def collect(ranks: int) -> Processors:
        try:
            simd = str(importlib.import_module("gearshift._core").simd_target())
        except (ImportError, AttributeError):
            simd = None
        return Processors(
            online=os.cpu_count() or 1,
            allowed=len(os.sched_getaffinity(0)),
            quota=_quota(),
            load=os.getloadavg()[0],
            simd=simd,
            ranks=ranks,
            omp_threads=os.environ.get("OMP_NUM_THREADS") or None,
        )

    @property
    def usable(self) -> float:
        return self.allowed if self.quota is None else min(self.allowed, self.quota)


def check(p: Processors) -> list[Finding]:
    return [_check_count(p), _check_threads(p), *_check_simd(p), *_check_load(p)]


def _check_count(p: Processors) -> Finding:
    found = f"{p.allowed} of {p.online} online processors are allowed here"
    if p.quota is not None and p.quota < p.allowed:
        return warning(
            "processors",
            f"{found}, and the control group gives time for {p.quota:g}",
            "threads are counted by affinity; those beyond the quota stop all others of the "
            "group for a part of each period, and a job waits for its slowest process",
            f"set OMP_NUM_THREADS so that all ranks together have {max(1, int(p.quota))} threads, "
            "or raise the container's limit (docker --cpus, Kubernetes limits.cpu)",
        )
    if p.ranks > p.allowed:
        return warning(
            "processors",
            f"{found}, for {p.ranks} ranks on this host",
            "ranks take turns on a processor, and each step waits for all of them",
            f"start at most {p.allowed} here (-n), or allow more (taskset, cpuset, mpirun "
            "--bind-to none, srun --cpus-per-task)",
        )
    return ok("processors", found)


def _check_threads(p: Processors) -> Finding:
    topic = "threads"
    if p.omp_threads is None:
        each = max(1, p.allowed // max(1, p.ranks))
        return ok(
            topic,
            f"OMP_NUM_THREADS is not set; `gearshift run -n {p.ranks}` gives {each} to each rank",
        )
    if not p.omp_threads.isdecimal() or int(p.omp_threads) < 1:
        return warning(
            topic,
            f"OMP_NUM_THREADS={p.omp_threads!r} is not a number of threads",
            "libraries ignore it, and take all processors in each rank",
            "set a whole number, or unset it: `gearshift run` divides the processors",
        )
    total = int(p.omp_threads) * p.ranks
    if p.ranks > 1 and int(p.omp_threads) > 1 and total > p.usable:
        return warning(
            topic,
            f"OMP_NUM_THREADS={p.omp_threads} in {p.ranks} ranks is {total} threads on "
            f"{p.usable:g} processors",
            "they wait for each other at the end of every operation",
            f"export OMP_NUM_THREADS={max(1, int(p.usable) // p.ranks)}, or unset it",
        )
    return ok(topic, f"OMP_NUM_THREADS={p.omp_threads} in each of {p.ranks} ranks")


def _check_simd(p: Processors) -> list[Finding]:
    if p.simd is None:  # the library does not load: versions says so
        return []
    if p.simd in _BASELINE:
        return [
            warning(
                "vectors",
                f"the core uses {p.simd} here",
                "sums and updates of gradients take two to four times longer than with AVX2",
                "where the processor has it, let the virtual machine see it (QEMU: -cpu host); do "
                "not mix such hosts with faster ones",
            )
        ]
    return [ok("vectors", f"the core uses {p.simd}")]


def _check_load(p: Processors) -> list[Finding]:
    if p.load <= p.allowed / 2:
        return []
    return [
        warning(
            "load",
            f"{p.load:.1f} processes were running or waiting here in the last minute, on "
            f"{p.allowed} processors",
            "a job has the speed of its slowest rank",
            "see `top`; end what is not needed, or start fewer ranks here",
        )
    ]


def _quota() -> float | None:
    text = read_limit("cpu.max")
    if text is not None:
        most, _, period = text.partition(" ")
        return int(most) / int(period or 100_000) if most.isdecimal() else None
    try:  # control groups of version 1
        folder = Path("/sys/fs/cgroup/cpu")
        most = (folder / "cpu.cfs_quota_us").read_text().strip()
        period = (folder / "cpu.cfs_period_us").read_text().strip()
    except OSError:
        return None
    return int(most) / int(period) if most.isdecimal() and int(most) > 0 else None
