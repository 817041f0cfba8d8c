"""Clusters and workloads that differ from a file in one thing: more workers, a slower network.

All functions take the contents of a file and return new ones.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import InvalidArgument
from .inputs import seconds
from .rates import parse_rate

Document = dict[str, Any]

_INTERFACE = 125e6  # bytes per second of a host that says nothing
_STRAGGLER = 2.0


def change(cluster: Document, workload: Document, point: Mapping[str, Any]) -> None:
    """Set what a point of a sweep says, in place.

    Raises:
        InvalidArgument: when the cluster cannot be like that.
    """
    if "workers" in point:
        scale_workers(cluster, int(point["workers"]))
    for axis, value in point.items():
        if axis in ("bandwidth", "latency"):
            set_in_hosts(cluster, axis, value)
        elif axis.startswith("hosts."):
            set_in_hosts(cluster, axis.removeprefix("hosts."), value)
        elif axis == "batch_size":
            scale_batch(workload, int(value))
    if "stragglers" in point:
        factor = float(point.get("straggler_factor", _STRAGGLER))
        set_stragglers(cluster, int(point["stragglers"]), factor)
    elif "straggler_factor" in point:
        set_factor(cluster, float(point["straggler_factor"]))


def set_in_hosts(cluster: Document, key: str, value: Any) -> None:
    """Set a key of all hosts."""
    for entry in _hosts(cluster):
        entry[key] = value


def scale_bandwidth(cluster: Document, factor: float) -> None:
    """Make all interfaces and uplinks faster, so that their proportions stay."""
    default = cluster.get("defaults", {}).get("bandwidth", _INTERFACE)
    for entry in _hosts(cluster):
        entry["bandwidth"] = factor * _rate(entry.get("bandwidth", default))
    for zone in cluster.get("zones", []):
        if "bandwidth" in zone:
            zone["bandwidth"] = factor * _rate(zone["bandwidth"])


def scale_batch(workload: Document, size: int) -> None:
    """Another batch size; computing takes time in proportion to it, the optimizer does not."""
    factor = size / workload.get("batch_size", 1)
    workload["batch_size"] = size
    for key in ("forward", "backward"):
        workload[key] = factor * seconds(workload[key])
    for parameter in workload["parameters"]:
        if "ready" in parameter:
            parameter["ready"] = min(
                factor * seconds(parameter["ready"]), float(workload["backward"])
            )


def set_stragglers(cluster: Document, count: int, factor: float) -> None:
    """Exactly so many stragglers: the last hosts with workers, slow in all steps.

    Raises:
        InvalidArgument: when there are not that many.
    """
    names = [name for entry in _hosts(cluster) if _get(cluster, entry, "workers", 1)
             for name in _names(entry)]  # fmt: skip
    if count > len(names):
        raise InvalidArgument(f"stragglers={count}: only {len(names)} hosts have workers")
    cluster["stragglers"] = [
        {"host": name, "factor": factor} for name in names[len(names) - count :]
    ]


def set_factor(cluster: Document, factor: float) -> None:
    """How slow the stragglers are that there are.

    Raises:
        InvalidArgument: when there are none.
    """
    if not cluster.get("stragglers"):
        raise InvalidArgument("straggler_factor: the cluster has no stragglers; give stragglers=N")
    for straggler in cluster["stragglers"]:
        straggler["factor"] = factor


def scale_workers(cluster: Document, workers: int) -> None:
    """Another number of workers, by repeating or leaving out hosts.

    The `count` of each entry with workers is scaled in proportion; what rounding leaves goes to
    the entries that lost most by it. Stragglers and failures of a host that is left out go to
    another one of its entry.

    Raises:
        InvalidArgument: when hosts of several workers do not add up to that number, or an entry
            that a straggler or failure names would be left without hosts.
    """
    entries = [e for e in _hosts(cluster) if _get(cluster, e, "workers", 1)]
    each = [int(_get(cluster, e, "workers", 1)) for e in entries]
    before = [int(e.get("count", 1)) for e in entries]
    counts = _counts(before, each, workers)
    for entry, old, new in zip(entries, before, counts, strict=True):
        if new != old:
            _rename(cluster, _renaming(str(entry.get("name", "")), old, new), workers)
            entry["count"] = new
    gone = {id(e) for e, count in zip(entries, counts, strict=True) if count == 0}
    cluster["hosts"] = [e for e in cluster["hosts"] if id(e) not in gone]


def _counts(before: Sequence[int], each: Sequence[int], workers: int) -> list[int]:
    total = sum(count * size for count, size in zip(before, each, strict=True))
    if total == 0:
        raise InvalidArgument(f"workers={workers}: no host has workers to begin with")
    exact = [count * workers / total for count in before]
    counts = [math.floor(count + 1e-9) for count in exact]
    left = workers - sum(count * size for count, size in zip(counts, each, strict=True))
    for i in sorted(range(len(counts)), key=lambda i: counts[i] - exact[i]):
        if counts[i] < exact[i] - 1e-9 and each[i] <= left:
            counts[i] += 1
            left -= each[i]
    if left:
        sizes = ", ".join(str(size) for size in sorted(set(each)))
        raise InvalidArgument(
            f"workers={workers}: hosts of {sizes} workers each don't add up to it in proportion; "
            "hosts.workers=… sets how many each has"
        )
    return counts


def _renaming(name: str, old: int, new: int) -> Callable[[str], str | None]:
    """From the old name of one of the entry's hosts to a new one; None: there is none."""

    def renamed(host: str) -> str | None:
        numbered = re.fullmatch(re.escape(name) + r"-(\d+)", host)
        if old == 1 and host == name:
            index = 0
        elif old > 1 and numbered and int(numbered[1]) < old:
            index = int(numbered[1])
        else:
            return host
        if new == 0:
            return None
        return name if new == 1 else f"{name}-{index % new}"

    return renamed


def _rename(cluster: Document, renamed: Callable[[str], str | None], workers: int) -> None:
    for kind in ("stragglers", "failures"):
        for entry in cluster.get(kind, []):
            host = renamed(str(entry.get("host", "")))
            if host is None:
                raise InvalidArgument(
                    f'workers={workers}: host "{entry["host"]}", which {kind} name, would be left '
                    "out"
                )
            entry["host"] = host


def edited(document: Mapping[str, Any]) -> Document:
    """A copy to change."""
    return copy.deepcopy(dict(document))


def _hosts(cluster: Document) -> list[Document]:
    return cluster["hosts"]


def _get(cluster: Document, entry: Document, key: str, default: Any) -> Any:
    return entry.get(key, cluster.get("defaults", {}).get(key, default))


def _names(entry: Document) -> list[str]:
    count = int(entry.get("count", 1))
    return [entry["name"]] if count == 1 else [f"{entry['name']}-{i}" for i in range(count)]


def _rate(value: Any) -> float:
    return parse_rate(value) if isinstance(value, str) else float(value)
