"""Processes that a test did not start itself, by what /proc says of them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

PATIENCE = 30.0


def await_end(pid: int) -> None:
    """Wait until a process has ended, also if nobody has waited for it yet."""
    status = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has gone
        while status.read_text(errors="replace").rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, f"process {pid} is still there"
            time.sleep(0.02)
