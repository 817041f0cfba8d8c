"""Who wins where: strategies ranked in each combination of use case, cluster and clock.

Strategies are compared seed by seed, since runs of one seed see the same batches; each counts with
the learning-rate factor that suits it best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

from ...errors import Error
from ...strategy import AllReduce, LocalSGD, StrategySwitch, is_asynchronous, parse, to_text
from ..cell import Clock, Outcome
from ..run import Run
from .data import StudyData
from .spread import FEWEST, Ratio, geometric_mean, ratio

LEAST_LEAD = 1.01
"""Leads of less than 1 % are none: neither clock is that exact."""

Kind = Literal["all_reduce", "synchronous", "asynchronous", "local", "switch"]
Verdict = Literal["won", "level", "few seeds", "nobody", "alone"]


@dataclass(frozen=True)
class Group:
    """The runs of all seeds of one strategy at one learning rate, in one combination."""

    strategy: str
    rate: float
    runs: tuple[Run, ...]
    """Those with an outcome; may be none."""
    failed: tuple[Run, ...] = ()

    @property
    def cells(self) -> int:
        """That were run."""
        return len(self.runs) + len(self.failed)

    def of_seeds(self, seeds: Collection[int]) -> Group:
        """The same with the runs of these alone."""
        return replace(self, runs=tuple(run for run in self.runs if run.cell.seed in seeds))

    @property
    def times(self) -> dict[int, float]:
        """Seconds to the target by seed; infinite where it was not reached."""
        return {
            run.cell.seed: math.inf if run.reached is None else run.reached.seconds
            for run in self.runs
        }

    @property
    def reached(self) -> list[Run]:
        return [run for run in self.runs if run.reached is not None]

    @property
    def diverged(self) -> list[Run]:
        return [run for run in self.runs if run.status == "diverged"]

    @property
    def time(self) -> float:
        """Median seconds to the target, infinite when most seeds never reach it."""
        return median(self.times.values())

    @property
    def best(self) -> float | None:
        """Median over seeds of the greatest metric."""
        return self.of_runs(lambda run: run.best)

    def of_runs(self, value: Callable[[Run], float | None]) -> float | None:
        """Median over the seeds that have the value; None: no seed has it."""
        found = [v for run in self.runs if (v := value(run)) is not None and math.isfinite(v)]
        return median(found) if found else None

    def of(self, name: str) -> float | None:
        """Median over seeds of a field of the outcomes."""
        return self.of_runs(lambda run: getattr(run.outcome, name))

    @property
    def outcomes(self) -> list[Outcome]:
        return [run.outcome for run in self.runs if run.outcome is not None]


@dataclass(frozen=True)
class Arm:
    """A strategy in one combination, with its best learning rate."""

    strategy: str
    kind: Kind
    best: Group
    groups: tuple[Group, ...]
    """One for each learning rate that has an outcome."""

    @property
    def ever_reached(self) -> bool:
        return bool(self.best.reached)


@dataclass(frozen=True)
class Comparison:
    """How many times as long a strategy needs to the target as another, seed by seed.

    Seeds in which only one of them reaches it count for that one; those in which neither does, not.
    """

    ratio: Ratio | None
    """Of the seeds in which both reach it: time of the other ÷ time of the first."""
    ahead: int
    """Seeds in which only the first reaches it."""
    behind: int
    """Seeds in which only the other does."""
    slowest: float | None = None
    """The least of the ratios."""
    common: int = 0
    """Seeds that both have run, whatever came of them."""

    @property
    def seeds(self) -> int:
        return self.ahead + self.behind + (0 if self.ratio is None else self.ratio.seeds)

    @property
    def faster(self) -> bool:
        """Whether the first needs less time, whatever chance has to do with it."""
        if self.ahead != self.behind:
            return self.ahead > self.behind
        return self.ratio is not None and self.ratio.mean >= LEAST_LEAD

    @property
    def likely(self) -> bool:
        """Faster, as far as a study of one or two seeds can tell."""
        return 0 < self.common < FEWEST and self.faster

    @property
    def decided(self) -> bool:
        """Whether the first is faster by more than seeds differ."""
        if self.seeds < FEWEST or not self.faster or self.behind:
            return False
        if self.ratio is None:
            return True
        if self.ahead:  # the interval would leave out the worst of the other's seeds
            return self.slowest is not None and self.slowest > 1
        return self.ratio.low is not None and self.ratio.low > 1


@dataclass(frozen=True)
class Factors:
    """Why one strategy needs another time than a second one; geometric means over seeds.

    Both in proportion to the second: time = samples ÷ speed.
    """

    samples: float
    """Samples to the target: statistical efficiency."""
    speed: float
    """Samples per second until then: hardware efficiency."""

    @property
    def time(self) -> float:
        return self.samples / self.speed

    @property
    def by_samples(self) -> bool:
        """Whether samples explain more of the ratio of times than speed does."""
        slower = self.time > 1
        of_samples, of_speed = math.log(self.samples), -math.log(self.speed)
        return of_samples > of_speed if slower else of_samples < of_speed


@dataclass(frozen=True)
class Combination:
    """A use case on a cluster, by one clock: its strategies, the first one first."""

    use_case: str
    cluster: str
    clock: Clock
    arms: tuple[Arm, ...]
    """Only those with an outcome."""
    without: tuple[str, ...]
    """Strategies that have none: they failed, or were not run."""
    verdict: Verdict
    level: tuple[Arm, ...]
    """Those that the first one does not beat by more than seeds differ."""
    baseline: Arm | None
    """All-Reduce, the first one that the study names."""

    @property
    def first(self) -> Arm:
        return self.arms[0]

    @property
    def lead(self) -> Comparison | None:
        """Of the first over the runner-up."""
        return compare(self.first, self.arms[1]) if len(self.arms) > 1 else None

    def arm(self, strategy: str) -> Arm | None:
        return next((arm for arm in self.arms if arm.strategy == strategy), None)


def combinations(data: StudyData) -> list[Combination]:
    """All that have an outcome; use cases, clusters and clocks in the order of the study."""
    found = []
    for case in data.use_cases:
        for cluster in data.clusters:
            for clock in cluster["clocks"]:
                runs = data.select(use_case=case["name"], cluster=cluster["name"], clock=clock)
                if any(run.outcome is not None for run in runs):
                    found.append(_combination(runs, data.strategies))
    return found


def _combination(runs: Sequence[Run], strategies: Sequence[str]) -> Combination:
    arms = [arm for name in strategies if (arm := _arm(name, runs)) is not None]
    baseline = next((arm for arm in arms if arm.kind == "all_reduce"), None)
    arms.sort(key=lambda arm: _rank(arm.best))  # stable: of equals the one that was named first
    cell = runs[0].cell
    there = {arm.strategy for arm in arms}
    level = _level(arms)
    return Combination(
        cell.use_case,
        cell.cluster,
        cell.clock,
        tuple(arms),
        tuple(name for name in strategies if name not in there),
        _verdict(arms, level),
        level,
        baseline,
    )


def _arm(strategy: str, runs: Sequence[Run]) -> Arm | None:
    own = [run for run in runs if run.cell.strategy == strategy]
    groups = []
    for rate in dict.fromkeys(run.cell.rate for run in own):
        at = [run for run in own if run.cell.rate == rate]
        groups.append(
            Group(
                strategy,
                rate,
                tuple(run for run in at if run.outcome is not None),
                tuple(run for run in at if run.outcome is None),
            )
        )
    tried = sorted((group for group in groups if group.runs), key=lambda group: group.rate)
    if not tried:
        return None
    most = max(group.cells for group in tried)
    best = min((group for group in tried if group.cells == most), key=_rank)
    return Arm(strategy, kind_of(strategy), best, tuple(tried))


def _rank(group: Group) -> tuple[float, float, float]:
    """Smaller is better: by seeds that reach the target, then time, then the best metric."""
    times = [time for time in group.times.values() if math.isfinite(time)]
    missed = 1 - len(times) / len(group.runs)
    return missed, geometric_mean(times) if times else math.inf, -_or(group.best)


def _or(value: float | None) -> float:
    return -math.inf if value is None else value


def _level(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    if not arms or not arms[0].ever_reached:
        return ()
    compared = [(arm, compare(arms[0], arm)) for arm in arms[1:]]
    return tuple(
        arm
        for arm, comparison in compared
        if comparison.common and not comparison.decided and not comparison.likely
    )


def _verdict(arms: Sequence[Arm], level: Sequence[Arm]) -> Verdict:
    if len(arms) == 1:
        return "alone" if arms[0].ever_reached else "nobody"
    if not arms[0].ever_reached:
        return "nobody"
    if level:
        return "level"
    certain = all(compare(arms[0], arm).decided for arm in arms[1:])
    return "won" if certain else "few seeds"


def compare(first: Arm, other: Arm) -> Comparison:
    """Over the seeds that both have run."""
    mine, others = first.best.times, other.best.times
    logarithms, ahead, behind = [], 0, 0
    common = [seed for seed in mine if seed in others]
    for seed in common:
        if math.isfinite(mine[seed]) and math.isfinite(others[seed]):
            logarithms.append(math.log(others[seed] / mine[seed]))
        else:
            ahead += math.isfinite(mine[seed])
            behind += math.isfinite(others[seed])
    found = ratio(logarithms) if logarithms else None
    slowest = math.exp(min(logarithms)) if logarithms else None
    return Comparison(found, ahead, behind, slowest, len(common))


def factors(arm: Arm, base: Arm) -> Factors | None:
    """Over the seeds in which both reach the target; None: there is no such seed."""
    mine = {run.cell.seed: run.reached for run in arm.best.runs if run.reached is not None}
    others = {run.cell.seed: run.reached for run in base.best.runs if run.reached is not None}
    both = [(mine[seed], others[seed]) for seed in mine if seed in others]
    if not both:
        return None
    samples = geometric_mean([a.samples / b.samples for a, b in both])
    times = geometric_mean([a.seconds / b.seconds for a, b in both])
    return Factors(samples, samples / times)


def kind_of(strategy: str) -> Kind:
    """Of which sort a strategy is.

    Raises:
        Error: for a text that is no strategy.
    """
    value = parse(strategy)
    if isinstance(value, StrategySwitch):
        return "switch"
    if isinstance(value, AllReduce):
        return "all_reduce"
    if isinstance(value, LocalSGD):
        return "local"
    return "asynchronous" if is_asynchronous(value) else "synchronous"


def ends_of(strategy: str) -> tuple[str, str]:
    """Where a switch begins and where it goes, as text.

    Raises:
        Error: for another strategy.
    """
    value: Any = parse(strategy)
    if not isinstance(value, StrategySwitch):
        raise Error(f"{strategy} does not switch")
    return to_text(value.start), to_text(value.then)
