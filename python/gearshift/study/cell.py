"""What a study consists of, and what the run of a cell found. All times are in seconds."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..sim.inputs import Source, WorkloadFacts

Clock = Literal["simulated", "measured"]
SIMULATED: Clock = "simulated"
MEASURED: Clock = "measured"
CLOCKS: tuple[Clock, ...] = (SIMULATED, MEASURED)
WARMUP = 2
"""Steps of each worker that figures leave out."""


@dataclass(frozen=True)
class UseCase:
    """What is trained: a task, and how much of it."""

    name: str
    """Of few characters, different from those of other use cases: part of file names."""
    title: str
    """For people: "Fashion-MNIST, CNN"."""
    task: str
    """As of ``gearshift simulate --train``: "path/to/task.py:function" or "module:function"."""
    workload: Source
    """What a step costs on a host of speed 1; has the batch size."""
    samples: int
    """That all workers together learn from in one run; rounded up to whole steps."""
    metric: str
    """What ``evaluate`` of the task returns, for people: "accuracy on 10,000 test images"."""
    target: float
    """The metric whose time is asked for."""
    evaluations: int = 20
    """Points of the learning curve."""
    rates: tuple[float, ...] = (1.0,)
    """Factors of the task's learning rate with which each strategy is tried."""
    searched: bool = False
    """Whether `rates` are only those with which a search begins, two of which the second is twice
    the first."""
    clocks: tuple[Clock, ...] = CLOCKS
    """Of the clusters' clocks those that it is trained with."""

    @property
    def batch_size(self) -> int:
        """Samples per worker and step."""
        return WorkloadFacts.of(self.workload).batch_size

    def steps(self, workers: int) -> int:
        """Of each worker."""
        return max(1, -(-self.samples // (workers * self.batch_size)))

    def evaluate_every(self, workers: int) -> int:
        """Steps between points of the learning curve."""
        return max(1, -(-self.steps(workers) // self.evaluations))


@dataclass(frozen=True)
class ClusterCase:
    """Where it is trained."""

    name: str
    title: str
    source: Source
    """The cluster file, with what the study changes in it."""
    clocks: tuple[Clock, ...] = (SIMULATED,)


def rate_text(rate: float) -> str:
    """A factor of a learning rate as text, different from that of every other factor."""
    short = f"{rate:g}"
    return short if float(short) == rate else repr(rate)


@dataclass(frozen=True)
class Cell:
    """One run: names of a use case and a cluster, and how it is trained there."""

    use_case: str
    cluster: str
    strategy: str
    """As text: "ps:asp"."""
    rate: float
    """Factor of the task's learning rate."""
    seed: int
    clock: Clock

    @property
    def label(self) -> str:
        """For people, in logs and errors."""
        rate = "" if self.rate == 1 else f" at {rate_text(self.rate)} of the rate"
        return (
            f"{self.use_case} on {self.cluster}, {self.strategy}{rate}, seed {self.seed},"
            f" {self.clock}"
        )

    @property
    def slug(self) -> str:
        """A file name, different from those of other cells."""
        parts = (
            self.use_case, self.cluster, self.strategy, rate_text(self.rate), self.seed, self.clock,
        )  # fmt: skip
        plain = "-".join(re.sub(r"[^a-z0-9.]+", "_", str(part).lower()) for part in parts)
        return f"{plain[:100]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Point:
    """Of a learning curve: worker 0's parameters after one of its steps."""

    seconds: float
    """Since the begin of training, without what evaluations take."""
    step: int
    """Of worker 0, counted from 1."""
    samples: int
    """Of which all workers together had computed gradients by then."""
    loss: float | None
    """Mean over the batches of worker 0 since the point before; None: not finite."""
    metric: float


@dataclass(frozen=True)
class Outcome:
    """What the run of a cell found."""

    workers: int
    servers: int
    """Dedicated ones."""
    batch_size: int
    steps: int
    """Of each worker."""
    step_mean: float
    """Of the steps of all workers after the warm-up."""
    step_p50: float
    step_p95: float
    samples_per_second: float
    """All workers together."""
    efficiency: float
    """Samples per second in proportion to those of the same workers if each computed alone."""
    exposed_share: float
    """Share of the steps in which a worker only waits."""
    mean_staleness: float | None
    """Versions that a push lagged; None without servers."""
    max_staleness: int | None
    bytes_sent: int
    """By all workers."""
    seconds: float
    """Of the training, from its begin to the end of the last worker."""
    curve: tuple[Point, ...]
    switches: tuple[Mapping[str, Any], ...] = ()
    """Each with ``step``, ``to`` (a strategy) and ``reason``."""
    idle_switch: str | None = None
    """Why a strategy that switches never did."""
    diverged: str | None = None
    """How the training ran away, if it did; figures are then those of the time before."""
    cost: float = 0.0
    """Real seconds that the run took."""
    dilation: float = 1.0
    """Of a measured cell: how many times as long everything took as these figures say."""
    overrun_share: float = 0.0
    """Of a measured cell: share of the steps whose real computation took longer than the workload
    says, by more than a twentieth."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Outcome:
        """Of what :meth:`to_dict` gave.

        Raises:
            TypeError: for other keys.
        """
        curve = tuple(Point(**point) for point in values["curve"])
        return Outcome(
            **{**values, "curve": curve, "switches": tuple(values.get("switches") or ())}
        )

    def to_reach(self, target: float) -> Reached | None:
        """When the metric is first as great as `target`; None: never.

        Between two points the metric is taken to run straight.
        """
        return to_reach(self.curve, target)


def decision(switch: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the decision log with its reason in one text, for ``Outcome.switches``."""
    return {**switch, "reason": f"{switch['policy']}: {switch['inputs']}"}


def gradients_by(workers: Sequence[Mapping[str, Any]], seconds: float) -> int:
    """How many all workers had computed by a time; each worker has a list ``computed``."""
    return sum(bisect_right(worker["computed"], seconds) for worker in workers)


@dataclass(frozen=True)
class Reached:
    """When a metric was first reached."""

    seconds: float
    samples: float
    step: float


def to_reach(curve: Sequence[Point], target: float) -> Reached | None:
    """See :meth:`Outcome.to_reach`."""
    before: Point | None = None
    for point in curve:
        if point.metric >= target:
            if before is None:
                return Reached(point.seconds, point.samples, point.step)
            share = (target - before.metric) / (point.metric - before.metric)
            between = [
                a + share * (b - a)
                for a, b in (
                    (before.seconds, point.seconds),
                    (before.samples, point.samples),
                    (before.step, point.step),
                )
            ]
            return Reached(*between)
        before = point
    return None


@dataclass(frozen=True)
class Done:
    """A cell that has been run: one of outcome and error is there."""

    cell: Cell
    outcome: Outcome | None = None
    error: str | None = None
    recipe: str = ""
    """A digest of all that determines the outcome: the same digest, the same run."""
    commit: str | None = None
    """Of the gearshift that ran it, if that was a checkout. It is no part of the recipe: most
    commits change no outcome, and none would make a long study begin anew."""


@dataclass(frozen=True)
class Study:
    """What the file says."""

    name: str
    title: str
    use_cases: tuple[UseCase, ...]
    clusters: tuple[ClusterCase, ...]
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    text: str = field(default="", repr=False)
    """Of the file."""
    question: str = ""
    """What the report begins with: why the study was made."""

    def cases_of(self, cell: Cell) -> tuple[UseCase, ClusterCase]:
        """What is trained in one of its cells, and where."""
        return (
            next(case for case in self.use_cases if case.name == cell.use_case),
            next(case for case in self.clusters if case.name == cell.cluster),
        )

    def cells(self) -> list[Cell]:
        """In the order of the file, seeds last; of searches those with which they begin."""
        return [
            Cell(use_case.name, cluster.name, strategy, rate, seed, clock)
            for use_case in self.use_cases
            for cluster in self.clusters
            for clock in cluster.clocks
            if clock in use_case.clocks
            for strategy in self.strategies
            for rate in use_case.rates
            for seed in (self.seeds[:1] if use_case.searched else self.seeds)
        ]
