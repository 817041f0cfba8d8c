"""A world of two on this host, for real: one process of it, and how it is started.

``python -m gearshift.doctor.trial FILE`` under ``gearshift run -n 2``: rank 0 writes to FILE how
long an all-reduce took, once both have found its result to be right.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..launch.process import die_with
from ..sim.durations import short_duration
from .finding import Finding, ok, problem, warning
from .variables import PLACES

TRANSPORTS = {"shm": "shared memory", "tcp": "TCP"}
_ELEMENTS = 1 << 18
_REPEATS = 5
_TIMEOUT = 15.0
_PATIENCE = 60.0
_LINES = 3


def run(transport: str, environ: Mapping[str, str]) -> Finding:
    """Start the two, wait for their end, and say how it went."""
    topic = f"two processes over {TRANSPORTS[transport]}"
    with tempfile.TemporaryDirectory(prefix="gearshift-doctor-") as folder:
        file = Path(folder) / "result.json"
        command = [
            *(sys.executable, "-m", "gearshift", "run", "-n", "2", "--timeout", f"{_TIMEOUT:g}"),
            *("--grace", "1", "-m", "gearshift.doctor.trial", str(file)),
        ]
        try:
            done = subprocess.run(
                command,
                env=_environment(transport, environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                check=False,
                preexec_fn=die_with(os.getpid()),
            )
        except subprocess.TimeoutExpired:
            return _failed(topic, transport, f"they had not ended after {_PATIENCE:g} s")
        except OSError as error:
            return _failed(topic, transport, f"{command[0]} cannot be started: {error.strerror}")
        if done.returncode != 0 or not file.exists():
            return _failed(topic, transport, _last_words(done.stderr) or f"code {done.returncode}")
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return ok(
        topic,
        f"an all-reduce of {result['bytes'] >> 20} MiB was right, and took "
        f"{short_duration(result['seconds'])}; they started within {result['start']:.1f} s",
    )


def _failed(topic: str, transport: str, why: str) -> Finding:
    if transport == "shm":
        return warning(
            topic,
            f"failed: {why}",
            "ranks of one host would talk over TCP, or not at all",
            "see the lines about shared windows and limits; GEARSHIFT_TRANSPORTS=tcp does without",
        )
    return problem(
        topic,
        f"failed: {why}",
        "no job of more than one process can run here",
        "mend what it says; with GEARSHIFT_LOG=debug, `gearshift run -n 2 -m gearshift.doctor` "
        "tells more",
    )


def _environment(transport: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Of the user, without a place in another job."""
    own = {name: value for name, value in environ.items() if name not in PLACES}
    own.setdefault("OMP_NUM_THREADS", "1")
    return {**own, "GEARSHIFT_TRANSPORTS": transport, "GEARSHIFT_SERVERS": "0"}


def _last_words(text: str) -> str:
    """What a rank said in the end, without tracebacks and prefixes."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "Error: " in line or "gearshift.errors." in line]
    return " / ".join(told[:1] or lines[-_LINES:])


def main(file: Path) -> None:
    """One of the two processes."""
    began = time.monotonic()
    import gearshift as gs

    gs.init()
    started = time.monotonic() - began
    seconds = time_all_reduce(_ELEMENTS, _REPEATS)
    if gs.rank() == 0:
        result = {"bytes": 4 * _ELEMENTS, "seconds": seconds, "start": started}
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(result), encoding="utf-8")
        os.replace(draft, file)


def time_all_reduce(elements: int, repeats: int) -> float:
    """Seconds of the fastest of some all-reduces of float32, on this rank. Collective.

    Raises:
        ArithmeticError: when a sum is wrong.
    """
    import gearshift as gs

    ranks, own = gs.world_size(), gs.rank()
    ramp = np.arange(elements, dtype=np.float32) % 251
    right = ranks * ramp + ranks * (ranks - 1) / 2
    fastest = float("inf")
    for _ in range(repeats):
        x = ramp + np.float32(own)
        gs.barrier()
        begin = time.perf_counter()
        gs.all_reduce(x)
        fastest = min(fastest, time.perf_counter() - begin)
        if not np.array_equal(x, right):
            wrong = int(np.argmax(x != right))
            raise ArithmeticError(
                f"rank {own}: element {wrong} of the sum is {x[wrong]:g}, not {right[wrong]:g}"
            )
    return fastest


if __name__ == "__main__":
    main(Path(sys.argv[1]))
