"""The result of one simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument
from ..report.words import count
from ..strategy import LocalSGD, Strategy, is_asynchronous, to_text, uses_local
from . import figures, given
from .curve import CurvePoint, Divergence, curve_of, divergence_of, time_to
from .durations import format_duration
from .figures import Distribution, Link, Waiting
from .inputs import WorkloadFacts
from .messages import Request

if TYPE_CHECKING:
    import pandas as pd


PACE_STEPS = 250
"""Steps after which asynchronous workers are taken to go at the pace that they keep."""


NAN_METRIC = "evaluate() returned NaN, which is no metric: those points of the curve have none"


def pace_hint(option: str = "--steps 1000") -> str:
    """What fewer steps may have missed, and what to ask for instead."""
    return (
        "workers who don't wait for each other begin in step, and some fall into a slower order "
        f"only after a hundred steps and more: {option} tells"
    )


def round_hint(warmup: int, every: int, option: str = "--steps {}") -> str:
    """What fewer steps than a round of local SGD say, and what to ask for instead."""
    enough = figures.fewest_steps(warmup, every)
    return (
        f"no whole round of {every} steps after the warm-up, so that means are not those of a "
        f"longer training: {option.format(enough)} tells"
    )


def margin(half_width: float) -> str:
    """A share for people: "±0.8 %", never less than it is."""
    return f"±{math.ceil(1000 * half_width) / 10:.1f} %"


@dataclass(frozen=True)
class SkippedSteps:
    """Steps of all workers that were not simulated.

    They are those before, later: the same again, or copies that stand for them.
    """

    first: int
    """Steps count from 1."""
    last: int
    period: int
    """Steps before `first` that repeat together, or are copied."""
    estimated: bool = False
    """They are not the same, but like those before on average: figures are estimates."""
    half_width: float = 0.0
    """If estimated: the share by which the mean step time may be off, with 95 % confidence."""

    def __str__(self) -> str:
        left_out = f"steps {self.first}..{self.last}"
        if self.estimated:
            window = f"{self.first - self.period}..{self.first - 1}"
            return f"{left_out} estimated from {window}, mean {margin(self.half_width)} (95 %)"
        every = "" if self.period == 1 else f" every {self.period}"
        return f"{left_out} repeat{every}, not simulated"


@dataclass(frozen=True)
class Result:
    """What a simulation says; docs/simulating.md defines the figures."""

    cluster: str
    workload: str
    strategy: str
    workers: int
    servers: int
    steps: int
    warmup: int
    seed: int
    batch_size: int
    """Samples per worker and step."""
    step_seconds: Distribution
    """Of the steps of all workers after the warm-up; under asynchronous strategies of those that
    end before the first worker has done all of its own, under local SGD of whole rounds; see
    :meth:`counted_seconds`."""
    throughput: float
    """Samples per second, all workers together."""
    efficiency: float
    """Throughput in proportion to that of workers who compute alone, without the others."""
    exposed_share: float
    """Share of a step in which a worker only waits for communication or others."""
    waiting: Waiting
    synchronous: bool
    """Whether every update is made of all workers' gradients of one step. If not, samples per
    second say nothing about accuracy."""
    asynchronous: bool
    """Whether, at least in a phase, there are servers that do not wait for all workers."""
    local: bool
    """Whether, at least in a phase, workers train alone between two rounds (local SGD)."""
    round_steps: int
    """Steps from one round of local SGD to the next; 1 under another strategy or a switch."""
    staleness: dict[int, int]
    """Pushes by the versions that their parameters lagged."""
    links: tuple[Link, ...]
    switches: tuple[dict[str, Any], ...]
    idle_switch: str | None
    """Why a strategy that switches never did."""
    bytes_sent: int
    messages: int
    virtual_seconds: float
    wall_seconds: float
    failure: str | None
    """Why training ended before its last step, if it did."""
    restarts: int
    """After hosts that failed."""
    repeated_steps: int
    """Of all workers: lost in a failure, and done again."""
    simulated_steps: int
    """Of each worker; the others repeat what was simulated, or are estimated from it."""
    skipped: SkippedSteps | None
    """Those others, if there are any."""
    curve: tuple[CurvePoint, ...]
    """What was learnt when, with ``train``; empty otherwise."""
    diverged: Divergence | None
    """Whether training diverged. Other figures are those of the time until then when a parameter
    server found that the loss ran away; otherwise those of a training that goes on."""
    nan_metrics: int
    """Evaluations that returned NaN: those points of the curve have no metric."""
    raw: Mapping[str, Any] = field(repr=False, compare=False)
    """What the core returned: the steps of every worker, and the timeline."""
    counted: Sequence[range] = field(repr=False, compare=False)
    """The steps of each worker, from 0 on, that figures are of."""

    @property
    def estimated(self) -> bool:
        """Whether steps were left out that do not repeat exactly: figures are estimates."""
        return self.skipped is not None and self.skipped.estimated

    @property
    def half_width(self) -> float:
        """The share by which the mean step time may be off for that, with 95 % confidence."""
        return self.skipped.half_width if self.skipped is not None else 0.0

    @property
    def unsettled(self) -> bool:
        """Whether these are too few steps to tell how fast a longer training is.

        Asynchronous workers may not have found the pace that they keep, see :data:`PACE_STEPS`,
        unless later steps are known to repeat those that were simulated; and of local SGD, no round
        may be whole after the warm-up. Learning is about the steps that were asked for.
        """
        if self.workers == 1 or self.curve:
            return False
        slow = self.asynchronous and self.steps < PACE_STEPS and self.skipped is None
        return slow or self.steps < figures.fewest_steps(self.warmup, self.round_steps)

    def too_few(self, option: str = "--steps {}") -> str:
        """What to ask for when it is unsettled, as the option that is named."""
        if self.round_steps > 1:
            return round_hint(self.warmup, self.round_steps, option)
        return pace_hint(option.format(1000))

    def counted_seconds(self) -> list[float]:
        """The times of the steps that `step_seconds` and `throughput` are of, worker by worker."""
        return figures.step_times(self.raw["workers"], self.counted)

    @property
    def steps_done(self) -> int:
        """Of the worker that has done the fewest: less than `steps` where training ended early."""
        return min(len(worker["end"]) for worker in self.raw["workers"])

    @property
    def mean_staleness(self) -> float | None:
        """Versions that a push lagged, on average; None without servers."""
        pushes = sum(self.staleness.values())
        return sum(lag * n for lag, n in self.staleness.items()) / pushes if pushes else None

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON; without the single steps and the timeline."""
        left_out = ("raw", "counted")
        values = {name: value for name, value in vars(self).items() if name not in left_out}
        return values | {
            "unsettled": self.unsettled,
            "step_seconds": asdict(self.step_seconds),
            "waiting": asdict(self.waiting),
            "staleness": {str(lag): count for lag, count in self.staleness.items()},
            "links": [asdict(link) for link in self.links],
            "switches": list(self.switches),
            "skipped": None if self.skipped is None else asdict(self.skipped),
            "curve": [asdict(point) for point in self.curve],
            "diverged": None if self.diverged is None else asdict(self.diverged),
        }

    def time_to(self, metric: float) -> float | None:
        """The first virtual second at which the metric is at least so great; None: never.

        Between two points of the curve the metric is taken to run straight.

        Raises:
            InvalidArgument: for a metric that is no finite number.
        """
        if not math.isfinite(given.number("metric", metric)):
            raise InvalidArgument(f"metric={metric!r}: must be finite")
        return time_to(self.curve, metric)

    def curve_frame(self) -> pd.DataFrame:
        """A row for each point of the learning curve: seconds, step, loss, metric."""
        from .frames import curve_frame

        return curve_frame(self)

    def steps_frame(self) -> pd.DataFrame:
        """A row for each step of each worker: rank, host, step, begin, computed, end, seconds."""
        from .frames import steps_frame

        return steps_frame(self)

    def links_frame(self) -> pd.DataFrame:
        """A row for each direction of each link: link, bandwidth, bytes, utilisation."""
        from .frames import links_frame

        return links_frame(self)

    def plot(self, path: str | Path) -> Path:
        """Draw how step times are distributed, the use of the links, and what was learnt.

        Returns the path.
        """
        from .plot import draw

        return draw(self, Path(path))

    def save_timeline(self, path: str | Path) -> Path:
        """Write what each rank does when, for https://ui.perfetto.dev; returns the path.

        Raises:
            InvalidArgument: when it was simulated without ``timeline=True``.
        """
        from .trace import save

        if not self.raw["timeline"]:
            raise InvalidArgument("there is no timeline: simulate with timeline=True")
        return save(self, Path(path))

    def summary(self) -> str:
        """The chief figures in a few lines."""
        step, wait = self.step_seconds, self.waiting
        lines = [
            f"{self.strategy}: {self.workload} on {self.cluster}, {count(self.workers, 'worker')}"
            + (f", {count(self.servers, 'server')}" if self.servers else ""),
            f"step        {_time(step.mean)} (median {_time(step.p50)}, p95 {_time(step.p95)})",
            f"throughput  {self.throughput:,.0f} samples/s,"
            f" {100 * self.efficiency:.0f} % of workers who compute alone",
            f"waiting     {_time(wait.exposed)} per step ({100 * self.exposed_share:.0f} %):"
            f" {_time(wait.slower_workers)} for slower workers,"
            f" {_time(wait.communication)} for communication",
        ]
        if self.mean_staleness is not None:
            lines.append(f"staleness   {self.mean_staleness:.2f} versions on average")
        busiest = max(self.links, key=lambda link: link.utilisation, default=None)
        if busiest is not None:
            lines.append(f"busiest     {busiest.name}: {100 * busiest.utilisation:.0f} %")
        lines += [f"switch      after step {s['step']} to {s['to']}" for s in self.switches]
        if self.idle_switch is not None:
            lines.append(f"switch      {self.idle_switch}")
        if self.diverged is not None:
            lines.append(f"learning    {self.diverged}: {self.diverged.reason}")
        elif self.curve:
            lines.append(f"learning    {_learnt(self.curve[-1])}")
        if self.nan_metrics:
            lines.append(f"metric      {NAN_METRIC}")
        if self.skipped is not None:
            lines.append(f"simulated   {self.simulated_steps} of {self.steps}: {self.skipped}")
        if self.unsettled:
            lines.append(f"note        {self.too_few('steps={}')}")
        if self.restarts:
            lines.append(
                f"restarts    {self.restarts}, {count(self.repeated_steps, 'step')} done twice"
            )
        if self.failure is not None:
            lines.append(f"ended early after {count(self.steps_done, 'step')}: {self.failure}")
        return "\n".join(lines)


def make_result(
    raw: Mapping[str, Any], request: Request, names: tuple[str, str], facts: WorkloadFacts,
    warmup: int,
) -> Result:  # fmt: skip
    """The figures of the core's answer; `names` are those of cluster and workload.

    Raises:
        Error: when no step was completed after the warm-up.
        InvalidArgument: when the steps take no time.
    """
    workers = raw["workers"]
    diverged = divergence_of(raw)
    strategy = figures.in_force(request.strategy, raw)
    counted = figures.counted_steps(workers, strategy, warmup, diverged is not None)
    times = figures.step_times(workers, counted, raw.get("failure"))
    rate = figures.throughput(workers, counted, facts.batch_size)
    wait, share = _waiting(workers, strategy, counted, times, facts)
    alone = figures.ideal_throughput(_speeds(raw), facts.batch_size, facts.compute_seconds)
    return Result(
        cluster=names[0],
        workload=names[1],
        strategy=to_text(request.strategy),
        workers=len(workers),
        servers=int(raw["cluster"]["servers"]),
        steps=request.steps,
        warmup=warmup,
        seed=request.seed,
        batch_size=facts.batch_size,
        step_seconds=Distribution.of(times),
        throughput=rate,
        efficiency=rate / alone,
        exposed_share=share,
        waiting=wait,
        synchronous=figures.is_synchronous(strategy),
        asynchronous=is_asynchronous(strategy),
        local=uses_local(strategy),
        round_steps=figures.round_length(strategy),
        staleness=figures.staleness(workers),
        links=figures.links(raw),
        switches=tuple(raw["switches"]),
        idle_switch=figures.idle_switch(request.strategy, raw),
        bytes_sent=sum(worker["bytes_sent"] for worker in workers),
        messages=raw["messages"],
        virtual_seconds=raw["virtual_seconds"],
        wall_seconds=raw["wall_seconds"],
        failure=raw.get("failure"),
        restarts=raw.get("restarts", 0),
        repeated_steps=raw.get("repeated_steps", 0),
        simulated_steps=raw.get("simulated_steps", request.steps),
        skipped=SkippedSteps(**raw["skipped"]) if raw.get("skipped") else None,
        curve=curve_of(raw, diverged),
        diverged=diverged,
        nan_metrics=raw.get("nan_metrics", 0),
        raw=raw,
        counted=counted,
    )


def _learnt(point: CurvePoint) -> str:
    metric = "" if point.metric is None else f", metric {point.metric:.4g}"
    return f"loss {point.loss:.4g}{metric} after step {point.step} at {_time(point.seconds)}"


def _speeds(raw: Mapping[str, Any]) -> list[float]:
    speed = {host["name"]: float(host["speed"]) for host in raw["cluster"]["hosts"]}
    return [speed[worker["host"]] for worker in raw["workers"]]


def _waiting(
    workers: Sequence[Mapping[str, Any]],
    strategy: Strategy,
    counted: Sequence[range],
    times: Sequence[float],
    facts: WorkloadFacts,
) -> tuple[Waiting, float]:
    """Where the time between computations goes, and which share of the steps is exposed."""
    if isinstance(strategy, LocalSGD):
        wait = figures.local_waiting(workers, counted, facts.optimizer_share)
        return wait, wait.exposed * len(times) / sum(times)
    return figures.waiting(workers, figures.is_synchronous(strategy)), _share(workers)


def _share(workers: Sequence[Mapping[str, Any]]) -> float:
    total = sum(
        end - begin
        for worker in workers
        for begin, end in zip(worker["begin"], worker["end"], strict=True)
    )
    return sum(worker["exposed_seconds"] for worker in workers) / total if total else 0.0


def _time(seconds: float) -> str:
    return format_duration(float(f"{seconds:.4g}"))
