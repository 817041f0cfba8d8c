"""What ``gearshift calibrate`` does."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import Error, InvalidArgument
from ...launch.launcher import launch
from ...launch.plan import LaunchOptions
from .. import extension, toml_text
from .fit import Line, fit_line

TRANSPORTS = {"shm": "shm", "loopback": "tcp"}
"""Ways between two processes of this machine, and the core's name of each."""
_LINK = {"rank", "same_host", "sizes", "seconds", "per_message"}
_USAGE_ERROR = 2


@dataclass(frozen=True)
class Calibration:
    """A link's measurements, and the line through them."""

    name: str
    sizes: Sequence[int]
    seconds: Sequence[float]
    per_message: float
    line: Line

    @staticmethod
    def of(name: str, link: Mapping[str, Any]) -> Calibration:
        """From what the probe wrote."""
        sizes, seconds = link["sizes"], link["seconds"]
        return Calibration(name, sizes, seconds, link["per_message"], fit_line(sizes, seconds))

    def table(self) -> str:
        """Each point, and how far from it the line is."""
        lines = [
            f"{self.name}: latency {1e6 * self.line.latency:.1f} us, "
            f"bandwidth {self.line.bandwidth / 1e6:,.1f} MB/s, "
            f"{1e6 * self.per_message:.2f} us per message",
            f"  {'bytes':>10} {'measured':>12} {'model':>12} {'residual':>9}",
        ]
        for size, seconds in zip(self.sizes, self.seconds, strict=True):
            model, residual = self.line.seconds(size), self.line.residual(size, seconds)
            lines.append(
                f"  {size:>10} {1e6 * seconds:>9.1f} us {1e6 * model:>9.1f} us"
                f" {100 * residual:>+7.1f} %"
            )
        return "\n".join(lines)


def run(transports: Sequence[str], measured: Path | None, out: Path) -> int:
    """Measure this machine, or read what a job measured; print and write. The exit code."""
    try:
        extension.load()
        out.parent.mkdir(parents=True, exist_ok=True)  # rather fail now than after measuring
        if out.is_dir():
            raise IsADirectoryError(f"{out}: Is a directory")
        found = {"hosts": _read(measured)} if measured else _measure_all(transports)
    except (Error, OSError, ValueError) as error:
        print(f"gearshift calibrate: {error}", file=sys.stderr)
        return _USAGE_ERROR
    keys: dict[str, float] = {}
    for name, probe in found.items():
        keys |= {key: float(f"{value:.4g}") for key, value in probe["work"].items()}
        for link in probe["links"]:
            calibration = Calibration.of(_title(name, link), link)
            print(calibration.table())
            keys |= _keys(calibration, bool(link["same_host"]), keys)
    out.write_text(_document(keys, out.stem), encoding="utf-8")
    print(f"Cluster file, to be completed with [[hosts]] and their links: {out}")
    return 0


def _title(name: str, link: Mapping[str, Any]) -> str:
    return name if link["same_host"] else f"rank 0 and rank {link['rank']}"


def _keys(
    calibration: Calibration, same_host: bool, known: Mapping[str, float]
) -> dict[str, float]:
    """What a link says of [defaults]: the slower of several counts.

    Between hosts a message costs `per_message` at either end and crosses two interfaces; within a
    host it only takes the latency.
    """
    line, cost = calibration.line, calibration.per_message
    if same_host:
        found = {"local_latency": line.latency, "local_bandwidth": line.bandwidth}
        if calibration.name != "shm":  # the processor's work for a message is that of tcp
            found["per_message"] = cost
        if "local_latency" in known:  # shared memory was there, and goes first in a job
            found = {k: v for k, v in found.items() if not k.startswith("local")}
    else:
        latency = max(0.0, line.latency - 2 * cost) / 2
        found = {
            "latency": max(latency, known.get("latency", 0.0)),
            "bandwidth": min(line.bandwidth, known.get("bandwidth", float("inf"))),
            "per_message": max(cost, known.get("per_message", 0.0)),
        }
    return {key: float(f"{value:.4g}") for key, value in found.items()}


def _document(keys: Mapping[str, float], name: str) -> str:
    head = (
        "# Measured by `gearshift calibrate`: seconds, bytes per second (docs/calibration.md).\n"
        "# Rates and latencies between hosts are only here if they were measured in a job.\n"
    )
    host = {"name": "host", "count": 2}
    return head + toml_text.dumps({"name": name, "defaults": dict(keys), "hosts": [host]})


def _measure_all(transports: Sequence[str]) -> dict[str, Any]:
    unknown = [name for name in transports if name not in TRANSPORTS]
    if unknown:
        raise ValueError(f"--transport {unknown[0]}: choose of {', '.join(TRANSPORTS)}")
    return {name: _measure(name) for name in transports}


def _measure(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="gearshift-calibrate-") as folder:
        file = Path(folder) / "measured.json"
        options = LaunchOptions(
            target=("gearshift.sim.calibration.probe", str(file)),
            kind="module",
            processes=2,
            extra_env={"GEARSHIFT_TRANSPORTS": TRANSPORTS[name]},
        )
        code = launch(options).returncode
        if code != 0:
            raise Error(f"the processes that measure {name} ended with code {code}")
        return _read(file)


def _read(file: Path) -> dict[str, Any]:
    """What the probe wrote.

    Raises:
        InvalidArgument: when it is something else.
        OSError: when it cannot be read.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # no text, too
        raise InvalidArgument(f"{file}: no JSON: {error}") from error
    try:
        whole = found["work"].items() and all(link.keys() >= _LINK for link in found["links"])
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise InvalidArgument(
            f"{file}: not what gearshift.sim.calibration.probe writes (docs/calibration.md)"
        )
    return found
