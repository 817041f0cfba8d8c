"""What was found about one combination, in words."""

from __future__ import annotations

import math

from ...report.words import count, several
from .analysis import Arm, Combination, Comparison, Group, compare, factors
from .document import code
from .numbers import duration, duration_range, number, percent, rate_factor, times

SEEDS = {0: "no seed in common", 1: "one seed", 2: "two seeds"}


def time_to_target(group: Group, status: bool = True) -> str:
    """Median with the spread over seeds, or why there is none."""
    reached = sorted(t for t in group.times.values() if math.isfinite(t))
    seeds = len(group.runs)
    if not reached:
        if not status:
            return "not reached"
        how = "diverged" if len(group.diverged) == seeds else "not reached"
        return f"{how} (best {number(group.best)})"
    middle = group.time if math.isfinite(group.time) else reached[len(reached) // 2]
    text = duration(middle)
    if len(reached) > 1 and duration(reached[0]) != duration(reached[-1]):
        text += f" ({duration_range(reached[0], reached[-1])})"
    if len(reached) < seeds:
        text += f" in {len(reached)} of {seeds} seeds"
    return text


def lead(comparison: Comparison, interval: bool = True) -> str:
    """Says "×1.23 [1.10, 1.38]", "×1.23, one seed", "not reached by the other"."""
    if comparison.ratio is None:
        return _without_ratio(comparison)
    text = times(comparison.ratio.mean)
    if comparison.ratio.low is not None and interval:
        text += f" [{number(comparison.ratio.low)}, {number(comparison.ratio.high)}]"
    elif comparison.seeds in SEEDS:
        text += f" ({SEEDS[comparison.seeds]})"
    if comparison.ahead:
        text += f"; {comparison.ahead} more of the seeds reach it"
    if comparison.behind:
        text += f"; {comparison.behind} fewer of the seeds reach it"
    return text


def _without_ratio(comparison: Comparison) -> str:
    """Where no seed reaches the target by both."""
    if comparison.ahead and comparison.behind:
        return f"reached in {count(comparison.ahead, 'seed')}, by the other in {comparison.behind}"
    if comparison.ahead:
        return "not reached by the other"
    if comparison.behind:
        return "never reached"
    return "reached by neither" if comparison.common else SEEDS[0]


def verdict(combination: Combination) -> str:
    """Who is first, when, and by how much: a cell of the matrix."""
    first = combination.first
    rate = _at_rate(first, combination)
    if combination.verdict == "nobody":
        return f"not reached; best metric {number(first.best.best)} by {code(first.strategy)}{rate}"
    text = f"**{code(first.strategy)}**{rate} {time_to_target(first.best)}"
    if combination.verdict == "alone":
        return f"{text}, alone"
    if combination.verdict == "level":
        return f"{text}, level with {several([code(arm.strategy) for arm in combination.level])}"
    runner_up = combination.arms[1]
    found = compare(first, runner_up)
    if not runner_up.ever_reached:
        note = f", {SEEDS[found.seeds]}" if found.seeds in SEEDS else ""
        return f"{text}; no other reaches it{note}"
    return f"{text}, {lead(found)} ahead of {code(runner_up.strategy)}"


def _at_rate(arm: Arm, combination: Combination) -> str:
    several_rates = any(len(other.groups) > 1 for other in combination.arms)
    return f" (rate {rate_factor(arm.best.rate)})" if several_rates else ""


def reason(combination: Combination) -> str:
    """Why the first is first: compared with All-Reduce, or with the runner-up if it is that."""
    first, base = combination.first, combination.baseline
    if not first.ever_reached:
        return _nobody(combination)
    if len(combination.arms) == 1:
        return f"{code(first.strategy)} has nobody to be compared with here."
    other = combination.arms[1] if base is None or base is first else base
    if not other.ever_reached:
        how = "diverges" if other.best.diverged else "does not reach the target"
        return (
            f"{code(first.strategy)} is first; {code(other.strategy)} {how}"
            f" (best metric {number(other.best.best)})."
        )
    found = factors(first, other)
    if found is None or (found.time > 1 and compare(first, other).ahead):
        return (
            f"{code(first.strategy)} reaches the target in more of the seeds than"
            f" {code(other.strategy)} does."
        )
    order = " is nominally first, level with others:" if combination.level else " is first:"
    waiting = _waiting(first, other)
    return f"{code(first.strategy)}{order} {_because(found, other.strategy)}{waiting}."


def _because(found: object, other: str) -> str:
    samples, speed, total = (getattr(found, name) for name in ("samples", "speed", "time"))
    more = f"it does {times(speed)} the samples per second of {code(other)}"
    need = f"needs {times(samples)} the samples to the target"
    return f"{more} and {need}, which makes {times(total)} the time"


_LITTLE = 0.01
"""A share of waiting that explains nothing."""


def _waiting(first: Arm, other: Arm) -> str:
    mine, others = first.best.of("exposed_share"), other.best.of("exposed_share")
    if mine is None or others is None or max(mine, others) < _LITTLE:
        return ""
    return (
        f" (its workers wait {percent(mine)} of the time, those of {code(other.strategy)}"
        f" {percent(others)})"
    )


def _nobody(combination: Combination) -> str:
    best = [f"{code(arm.strategy)} {number(arm.best.best)}" for arm in combination.arms]
    return f"Nobody reaches the target within the budget; best metrics: {', '.join(best)}."
