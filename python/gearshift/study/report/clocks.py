"""Cells that were both measured and simulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from .analysis import LEAST_LEAD, Arm, Combination, Group


@dataclass(frozen=True)
class Pair:
    """One quantity of one strategy by both clocks; medians over the seeds that both have run, in
    seconds."""

    use_case: str
    cluster: str
    strategy: str
    rate: float
    simulated: float
    measured: float

    @property
    def error(self) -> float:
        """Of the simulation, as a share of what was measured."""
        return self.simulated / self.measured - 1


@dataclass(frozen=True)
class Error:
    """Of several simulations."""

    mean_absolute: float
    worst: Pair


def both(found: Sequence[Combination]) -> list[tuple[Combination, Combination]]:
    """Simulated and measured combinations of one use case and cluster."""
    measured = {(c.use_case, c.cluster): c for c in found if c.clock == "measured"}
    return [
        (c, measured[c.use_case, c.cluster])
        for c in found
        if c.clock == "simulated" and (c.use_case, c.cluster) in measured
    ]


def pairs(found: Sequence[Combination], quantity: Callable[[Group], float | None]) -> list[Pair]:
    """Of all strategies and learning rates that have the quantity by both clocks, over the seeds
    that both have run (of searches, they may have run all but the first at different rates)."""
    made = []
    for simulated, measured in both(found):
        groups = {(a.strategy, g.rate): g for a in measured.arms for g in a.groups}
        for arm in simulated.arms:
            for group in arm.groups:
                other = groups.get((arm.strategy, group.rate))
                common = group.times.keys() & ({} if other is None else other.times).keys()
                if other is None or not common:
                    continue
                values = quantity(group.of_seeds(common)), quantity(other.of_seeds(common))
                if values[0] and values[1] and all(math.isfinite(v) for v in values if v):
                    made.append(
                        Pair(
                            simulated.use_case,
                            simulated.cluster,
                            arm.strategy,
                            group.rate,
                            values[0],
                            values[1],
                        )
                    )
    return made


def error(found: Sequence[Pair]) -> Error:
    """Of at least one pair."""
    return Error(
        fmean(abs(pair.error) for pair in found), max(found, key=lambda pair: abs(pair.error))
    )


@dataclass(frozen=True)
class Order:
    """Whether both clocks rank strategies alike in one combination."""

    simulated: Combination
    measured: Combination
    same_first: bool
    pairs: int
    """Of strategies that are apart by more than 1 % by the measured clock."""
    pairs_right: int
    """Those of them that the simulation ranks alike."""


def orders(found: Sequence[Combination]) -> list[Order]:
    """Of each combination with two strategies or more by both clocks."""
    made = []
    for simulated, measured in both(found):
        names = [arm.strategy for arm in measured.arms if simulated.arm(arm.strategy) is not None]
        if len(names) < 2:
            continue
        virtual = {a.strategy: _time(a) for a in simulated.arms}
        real = {a.strategy: _time(a) for a in measured.arms}
        apart = [
            (a, b)
            for i, a in enumerate(names)
            for b in names[i + 1 :]
            if real[a] != real[b] and max(real[a], real[b]) > LEAST_LEAD * min(real[a], real[b])
        ]
        right = sum((real[a] < real[b]) == (virtual[a] < virtual[b]) for a, b in apart)
        first = next(arm.strategy for arm in simulated.arms if arm.strategy in names)
        made.append(Order(simulated, measured, first == names[0], len(apart), right))
    return made


def _time(arm: Arm) -> float:
    return arm.best.time
