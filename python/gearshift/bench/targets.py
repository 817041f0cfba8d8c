"""Whether a case has reached its targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .case import OURS, Target

Result = Mapping[str, Any]


def check(target: Target, result: Result) -> dict[str, Any] | None:
    """A target's line in summary.json; None when what it needs could not be measured."""
    value_of, at_most, words = _KINDS[target.kind]
    try:
        value = value_of(result, target.against)
    except KeyError:
        return None
    return {
        "kind": target.kind,
        "against": target.against,
        "limit": target.limit,
        "wanted": words(target.limit),
        "value": value,
        "reached": bool(value <= target.limit if at_most else value >= target.limit),
    }


def _ratio(result: Result, against: str) -> float:
    return float(result["ratios"][against]["median"])


def _difference(result: Result, against: str) -> float:
    return float(result["differences"][against]["median"])


def _bound(result: Result, _: str) -> float:
    return float(result["bound"]["seconds"] / result["sides"][OURS]["seconds"]["median"])


def _bytes(result: Result, _: str) -> float:
    between = result["between_hosts"]
    return float(between["flat_ring"] / between["sent"][OURS]["median"])


def _memory(result: Result, against: str) -> float:
    ours, theirs = (result["sides"][name]["more"] for name in (OURS, against))
    return float((ours["pss_bytes"] - theirs["pss_bytes"]) / ours["gradient_bytes"])


_KINDS: dict[str, tuple[Callable[[Result, str], float], bool, Callable[[float], str]]] = {
    "ratio": (_ratio, False, lambda limit: f"≥ {limit:.3g}x"),
    "difference": (_difference, True, lambda limit: f"≤ +{1e6 * limit:g} µs"),
    "bound": (_bound, False, lambda limit: f"≥ {limit:g}x"),
    "bytes": (_bytes, False, lambda limit: f"≥ {limit:g}x"),
    "memory": (_memory, True, lambda limit: f"≤ +{limit:g} sets"),
}
"""How a value is got, whether it must be at most the limit (else at least), and how it reads."""
