"""What ``gearshift calibrate`` does."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import Error
from ...launch.launcher import launch
from ...launch.plan import LaunchOptions
from ...report.files import check_new, check_writable, io_text, write_whole
from .. import extension, toml_text
from ..given import readable
from .fit import Line, fit_line

TRANSPORTS = {"shm": "shm", "loopback": "tcp"}
"""Ways between two processes of this machine, and the core's name of each. Shared memory, which a
job prefers, comes first: what is said first of a host's own links counts."""
_USAGE_ERROR = 2
_FAR, _FAR_SIZES = 0.2, 3
"""So far from so many points, a line is none."""


class _Interrupted(Exception):  # noqa: N818
    """A signal has ended the processes that measure."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


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

    def doubt(self) -> str | None:
        """What to say of a link that is no line."""
        points = list(zip(self.sizes, self.seconds, strict=True))
        far = [size for size, t in points if abs(self.line.residual(size, t)) > _FAR]
        if len(far) < _FAR_SIZES:
            return None
        size, seconds = max(points)
        return (
            f"{self.name}: the line is more than {100 * _FAR:.0f} % off at {len(far)} of "
            f"{len(points)} sizes. Was the machine busy, or does a token bucket let bursts pass "
            f"(set burst, and bandwidth: {size} bytes came at {size / seconds / 1e6:,.1f} MB/s)? "
            "docs/calibration.md says more."
        )


def run(transports: Sequence[str], measured: Path | None, out: Path, force: bool = False) -> int:
    """Measure this machine, or read what a job measured; print and write. The exit code.

    Args:
        transports: ways to measure here; none: all, unless a job has measured.
        measured: what it wrote.
        out: the file to write.
        force: replace one that is there.
    """
    try:
        if transports and measured:
            raise ValueError("--transport and --measured: choose one; the file says how it was")
        extension.load()
        check_new(out, force)
        check_writable(out)
        ways = transports or [*TRANSPORTS]
        found = {"hosts": read_measured(measured)} if measured else _measure_all(ways)
    except _Interrupted as interrupt:
        return interrupt.code
    except (Error, OSError, ValueError) as error:
        told = io_text(error) if isinstance(error, OSError) else error
        print(f"gearshift calibrate: {told}", file=sys.stderr)
        return _USAGE_ERROR
    keys: dict[str, float] = {}
    calibrations = []
    for name, probe in found.items():
        keys |= {key: float(f"{value:.4g}") for key, value in probe["work"].items()}
        for link in probe["links"]:
            calibrations.append(Calibration.of(_title(name, link), link))
            keys |= _keys(calibrations[-1], bool(link["same_host"]), keys)
    text = _document(keys, readable(out.stem))
    try:  # before anything is shown: the reader of stdout may have gone
        write_whole(out, text)
        failure = None
    except OSError as error:
        failure = error
    _show(calibrations)
    if failure is not None:
        print(text)  # so that what was measured is not lost
        print(f"gearshift calibrate: {out}: {failure.strerror or failure}", file=sys.stderr)
        return _USAGE_ERROR
    print(f"Cluster file, to be completed with [[hosts]] and their links: {out}")
    return 0


def _show(calibrations: Sequence[Calibration]) -> None:
    for calibration in calibrations:
        print(calibration.table())
        doubt = calibration.doubt()
        if doubt is not None:
            print(f"gearshift calibrate: warning: {doubt}", file=sys.stderr)
    if not calibrations:
        print("No link was measured: a job of one process has none.")


def _title(name: str, link: Mapping[str, Any]) -> str:
    if name in TRANSPORTS:
        return name
    return f"rank 0 and rank {link['rank']}" + (" of the same host" if link["same_host"] else "")


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
        if calibration.name == "loopback":  # the processor's work for a message is that of tcp
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
    return {name: _measure(name) for name in TRANSPORTS if name in transports}


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
        if code > 128:  # Ctrl-C, say, of which the launcher has told
            raise _Interrupted(code)
        if code != 0:
            raise Error(f"the processes that measure {name} ended with code {code}")
        return read_measured(file)


def read_measured(file: Path) -> dict[str, Any]:
    """What the probe wrote.

    Raises:
        OSError: when it cannot be read.
        ValueError: naming file and key, when it is something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: no JSON: {error}") from error
    wrong = _wrong(found)
    if wrong is not None:
        raise ValueError(f"{file}: {wrong}; is it what gearshift.sim.calibration.probe wrote?")
    return dict(found)


def _wrong(found: Any) -> str | None:
    """The first key that is not as the probe writes it."""
    if not isinstance(found, dict):
        return "must hold an object"
    work, links = found.get("work"), found.get("links")
    if not isinstance(work, dict) or not all(map(_is_positive, work.values())):
        return "work: must hold rates"
    if not isinstance(links, list):
        return "links: must be a list"
    if not work:
        return "work: must hold rates"
    for number, link in enumerate(links):
        key = _wrong_in_link(link) if isinstance(link, dict) else ""
        if key is not None:
            return f"links[{number}]{key and '.'}{key}: is not what was measured of a link"
    return None


def _wrong_in_link(link: Mapping[str, Any]) -> str | None:
    sizes, seconds = link.get("sizes"), link.get("seconds")
    right = {
        "rank": isinstance(link.get("rank"), int),
        "same_host": isinstance(link.get("same_host"), bool),
        "per_message": _is_positive(link.get("per_message")),
        "sizes": isinstance(sizes, list) and all(map(_is_positive, sizes)) and len(set(sizes)) > 1,
        "seconds": isinstance(seconds, list) and all(map(_is_positive, seconds)),
    }
    wrong = next((key for key, is_right in right.items() if not is_right), None)
    if wrong is None and len(link["sizes"]) != len(link["seconds"]):
        return "seconds"
    return wrong


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < float("inf")
