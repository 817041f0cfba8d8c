"""Waits for a moment in which the machine has nothing else to do."""

from __future__ import annotations

import time
from pathlib import Path

_IDLE = 0.7
_SAMPLE_SECONDS = 2.0
_PATIENCE = 30.0


def wait_until_quiet() -> float:
    """Share of the processors' time that was idle at last; after half a minute, whatever it is."""
    deadline = time.monotonic() + _PATIENCE
    while (idle := _idle_share()) < _IDLE and time.monotonic() < deadline:
        pass
    return idle


def _idle_share() -> float:
    before = _times()
    time.sleep(_SAMPLE_SECONDS)
    passed = [after - b for after, b in zip(_times(), before, strict=True)]
    return (passed[3] + passed[4]) / max(1, sum(passed))  # idle, and waiting for disks


def _times() -> list[int]:
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    return [int(field) for field in line.split()[1:9]]
