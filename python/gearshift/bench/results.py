"""From the rounds of a case to its line in summary.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import across_hosts, servers
from .case import OURS, Point, Setting
from .side import Turn
from .targets import check

FORMAT = 1
"""Of summary.json."""


@dataclass
class Measured:
    """What was measured of one case."""

    rounds: list[dict[str, Turn]] = field(default_factory=list)
    """For each round, the turns of the sides that took part."""
    sent_bytes: dict[str, list[float]] = field(default_factory=dict)
    """Bytes between hosts for one operation, by side and round."""
    uplink_bytes: dict[str, list[float]] = field(default_factory=dict)
    """Bytes between sites, likewise."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Sides that did not take part, and why."""
    half_round_trip: float | None = None
    """Of a message between two hosts, in seconds."""


def case_result(setting: Setting, point: Point, measured: Measured) -> dict[str, Any]:
    """The account of one case: plain data, as it stands in summary.json."""
    names = [side.name for side in setting.sides if any(side.name in r for r in measured.rounds)]
    sides = {name: _side_result(name, measured) for name in names}
    result: dict[str, Any] = {
        "case": f"{setting.name}/{point.name}",
        "setting": setting.name,
        "title": setting.title,
        "ranks": setting.ranks,
        "bytes": point.bytes,
        "rounds": len(measured.rounds),
        "sides": sides,
        "skipped": dict(measured.skipped),
        "ratios": {
            name: spread([r[name].seconds / r[OURS].seconds for r in _with(measured, name)])
            for name in names
            if name != OURS and OURS in names
        },
        "differences": {
            name: spread([r[name].seconds - r[OURS].seconds for r in _with(measured, name)])
            for name in names
            if name != OURS and OURS in names
        },
    }
    result |= _network_result(setting, point, measured, sides)
    result["targets"] = [
        checked for target in point.targets if (checked := check(target, result)) is not None
    ]
    return result


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and extremes of some values, and the values."""
    ordered = sorted(values)
    if len(ordered) == 1:
        low = high = ordered[0]
    else:
        low, _, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return {
        "median": statistics.median(ordered),
        "low": low,
        "high": high,
        "least": ordered[0],
        "most": ordered[-1],
        "all": list(values),
    }


def _with(measured: Measured, name: str) -> list[dict[str, Turn]]:
    return [r for r in measured.rounds if name in r and OURS in r]


def _side_result(name: str, measured: Measured) -> dict[str, Any]:
    turns = [r[name] for r in measured.rounds if name in r]
    problems = sorted({turn.problem for turn in turns if turn.problem})
    more = {
        key: statistics.median(turn.more[key] for turn in turns if key in turn.more)
        for key in sorted({key for turn in turns for key in turn.more})
    }
    return {
        "seconds": spread([turn.seconds for turn in turns]),
        "verified": not problems,
        "problems": problems,
        "operations": sum(turn.operations for turn in turns),
        **({"more": more} if more else {}),
    }


def _network_result(
    setting: Setting, point: Point, measured: Measured, sides: Mapping[str, Any]
) -> dict[str, Any]:
    """Bytes moved, and the bound."""
    if setting.kind == "servers":
        return _servers_result(setting, sides)
    if setting.kind != "all_reduce" or point.bytes is None:
        return {}
    network, count = setting.network, point.bytes
    if network is None:
        # Each rank reads its slice of all arrays, and writes it to all of them.
        return {"moved_bytes": 2 * setting.ranks * count}
    result: dict[str, Any] = {
        "network": {"hosts": network.hosts, "mbit": network.mbit, "placement": network.placement},
        "moved_bytes": across_hosts.least_bytes(count, network),
        "between_hosts": {
            "sent": {
                name: spread(values) for name, values in measured.sent_bytes.items() if values
            },
            "least": across_hosts.least_bytes(count, network),
            "flat_ring": across_hosts.flat_ring_bytes(count, network, setting.ranks),
        },
    }
    if network.sites > 1:
        result["network"] |= {"sites": network.sites, "uplink_mbit": network.uplink_mbit}
        result["between_sites"] = {
            "sent": {
                name: spread(values) for name, values in measured.uplink_bytes.items() if values
            },
            "least": network.sites * across_hosts.ring_share(network.sites) * count,
        }
    half = measured.half_round_trip
    if half is not None:
        result["half_round_trip"] = half
    bound = across_hosts.bound_seconds(count, network, half or 0.0)
    if bound and (half is not None or count > 64 * 1024):
        result["bound"] = _bound(bound, sides)
    return result


def _servers_result(setting: Setting, sides: Mapping[str, Any]) -> dict[str, Any]:
    link_bytes = sides.get(OURS, {}).get("more", {}).get("link_bytes")
    if link_bytes is None or setting.network is None:
        return {}
    return {
        "moved_bytes": link_bytes,
        "bound": _bound(servers.bound_seconds(link_bytes), sides),
    }


def _bound(seconds: float, sides: Mapping[str, Any]) -> dict[str, Any]:
    ours = sides.get(OURS)
    reached = None if ours is None else seconds / ours["seconds"]["median"]
    return {"seconds": seconds, "reached": reached}
