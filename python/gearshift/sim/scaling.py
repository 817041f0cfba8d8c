"""Clusters and workloads that differ from a file in one thing: more workers, a slower network.

All functions take the contents of a file and return new ones.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidArgument
from ..report.words import count as counted
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
    if "stragglers" in point:  # instead of those that there are
        cluster.pop("stragglers", None)
    if "hosts.workers" in point:  # before it is known how many hosts make so many workers
        set_workers(cluster, int(point["hosts.workers"]))
    if "workers" in point:
        scale_workers(cluster, int(point["workers"]))
    for axis, value in point.items():
        if axis in ("bandwidth", "latency"):
            set_in_hosts(cluster, axis, value)
        elif axis.startswith("hosts.") and axis != "hosts.workers":
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


def set_workers(cluster: Document, workers: int) -> None:
    """The workers of each host that has some."""
    for entry in _hosts(cluster):
        if _get(cluster, entry, "workers", 1):
            entry["workers"] = workers


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
    names = _with_workers(cluster)
    if count > len(names):
        have = f"{counted(len(names), 'host')} {'has' if len(names) == 1 else 'have'} workers"
        raise InvalidArgument(f"stragglers={count}: only {have}")
    cluster["stragglers"] = [
        {"host": name, "factor": factor} for name in names[len(names) - count :]
    ]


def add_straggler(cluster: Document, factor: float) -> None:
    """One more: the last host with workers that is none yet, slow in all steps.

    Raises:
        InvalidArgument: when all are.
    """
    there = cluster.get("stragglers", [])
    slow = {straggler["host"] for straggler in there}
    names = [name for name in _with_workers(cluster) if name not in slow]
    if not names:
        raise InvalidArgument("all hosts with workers are stragglers")
    cluster["stragglers"] = [*there, {"host": names[-1], "factor": factor}]


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
    another one of its entry, which has neither.

    Raises:
        InvalidArgument: when hosts of several workers do not add up to that number, or an entry
            would be left with fewer hosts than stragglers and failures name.
    """
    entries = [e for e in _hosts(cluster) if _get(cluster, e, "workers", 1)]
    each = [int(_get(cluster, e, "workers", 1)) for e in entries]
    before = [int(e.get("count", 1)) for e in entries]
    counts = _counts(before, each, workers)
    for entry, old, new in zip(entries, before, counts, strict=True):
        if new != old:
            _rename(cluster, str(entry.get("name", "")), old, new, workers)
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


def _rename(cluster: Document, name: str, old: int, new: int, workers: int) -> None:
    """Let stragglers and failures follow the hosts of an entry that are left."""
    kinds = ("stragglers", "failures")
    named = [item for kind in kinds for item in cluster.get(kind, [])]
    hosts = {str(item.get("host", "")): kind for kind in kinds for item in cluster.get(kind, [])}
    indices = {host: _index(name, host, old) for host in hosts}
    after: dict[str, int] = {}
    # Who stays, stays where it is; the others go where nobody is.
    for host, index in sorted(
        ((host, index) for host, index in indices.items() if index is not None),
        key=lambda item: item[1],
    ):
        taken = set(after.values())
        free = [i % new for i in range(index, index + new) if i % new not in taken] if new else []
        if not free:
            raise InvalidArgument(
                f'workers={workers}: host "{host}", which {hosts[host]} name, would be left out'
            )
        after[host] = free[0]
    for item in named:
        host = str(item.get("host", ""))
        if host in after:
            item["host"] = name if new == 1 else f"{name}-{after[host]}"


def _index(name: str, host: str, count: int) -> int | None:
    """Which of an entry's hosts it is; None: it is none of them."""
    if count == 1:
        return 0 if host == name else None
    numbered = re.fullmatch(re.escape(name) + r"-(\d+)", host)
    return int(numbered[1]) if numbered and int(numbered[1]) < count else None


def edited(document: Mapping[str, Any]) -> Document:
    """A copy to change."""
    return copy.deepcopy(dict(document))


def _hosts(cluster: Document) -> list[Document]:
    return cluster["hosts"]


def _get(cluster: Document, entry: Document, key: str, default: Any) -> Any:
    return entry.get(key, cluster.get("defaults", {}).get(key, default))


def hosts_with_workers(cluster: Document) -> int:
    """How many hosts have workers."""
    return len(_with_workers(cluster))


def _with_workers(cluster: Document) -> list[str]:
    """The names of all hosts that have workers."""
    return [name for entry in _hosts(cluster) if _get(cluster, entry, "workers", 1)
            for name in _names(entry)]  # fmt: skip


def _names(entry: Document) -> list[str]:
    count = int(entry.get("count", 1))
    return [entry["name"]] if count == 1 else [f"{entry['name']}-{i}" for i in range(count)]


def _rate(value: Any) -> float:
    return parse_rate(value) if isinstance(value, str) else float(value)
