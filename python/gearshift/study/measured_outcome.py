"""What the workers of a measured cell saw, as the outcome that a simulated one has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import Error
from ..sim import figures
from ..sim.curve import Divergence
from ..sim.figures import Distribution
from ..sim.inputs import WorkloadFacts
from ..strategy import Strategy
from .cell import WARMUP, Outcome, Point, decision, gradients_by
from .namespaces import Network

_TOLERANCE = 0.05
"""Share of a step's computation by which it may be late and has not overrun its pace."""


@dataclass(frozen=True)
class Run:
    """A measured training."""

    records: Sequence[Mapping[str, Any]]
    """By rank: the fields of :class:`gearshift.torch._measured.Record`."""
    network: Network
    facts: WorkloadFacts
    strategy: Strategy
    steps: int
    dilation: float

    def outcome(self, cost: float) -> Outcome:
        """Its figures, on the clock of the cluster.

        Raises:
            Error: when it ended early and did not diverge, or before a step was done.
        """
        workers = [self._worker(record) for record in self.records]
        diverged = self._divergence()
        if diverged is None:
            self._refuse_failures()
        warmup = min(WARMUP, self.steps - 1)
        counted = figures.counted_steps(workers, self.strategy, warmup, diverged is not None)
        times = Distribution.of(figures.step_times(workers, counted))
        batch = self.facts.batch_size
        rate = figures.throughput(workers, counted, batch)
        ideal = figures.ideal_throughput(self.network.speeds, batch, self.facts.compute_seconds)
        switches = tuple(self._switch(s) for s in self._stats(0).get("switches", ()))
        told = {"switches": switches, "steps_per_epoch": self.records[0]["steps_per_epoch"]}
        mean_staleness, max_staleness = self._staleness()
        return Outcome(
            workers=len(workers),
            servers=len(self.network.server_hosts),
            batch_size=batch,
            steps=self.steps,
            step_mean=times.mean,
            step_p50=times.p50,
            step_p95=times.p95,
            samples_per_second=rate,
            efficiency=rate / ideal,
            exposed_share=self._exposed_share(workers),
            mean_staleness=mean_staleness,
            max_staleness=max_staleness,
            bytes_sent=sum(self._stats(r).get("bytes_sent", 0) for r in range(len(workers))),
            seconds=max(worker["end"][-1] for worker in workers if worker["end"]),
            curve=self._curve(workers),
            switches=switches,
            idle_switch=figures.idle_switch(self.strategy, told),
            diverged=None if diverged is None else f"{diverged}: {diverged.reason}",
            cost=cost,
            dilation=self.dilation,
            overrun_share=self.overrun_share(),
        )

    def overrun_share(self) -> float:
        """Share of the steps after the warm-up whose real computation took too long."""
        allowed = _TOLERANCE * self.dilation * self.facts.compute_seconds
        late = [seconds > allowed for record in self.records for seconds in record["late"][WARMUP:]]
        return sum(late) / len(late) if late else 0.0

    def delay_share(self) -> float:
        """By how much steps took longer for that, at most: all wait for the latest worker."""
        steps = zip(*(record["late"][WARMUP:] for record in self.records), strict=False)
        delay = sum(max(late) for late in steps)
        workers = [(record["begin"][WARMUP:], record["end"]) for record in self.records]
        seconds = max((end[-1] - begin[0] for begin, end in workers if begin and end), default=0.0)
        return delay / seconds if seconds > 0 else 0.0

    def _seconds(self, time: float) -> float:
        """On the cluster's clock, since the first worker began."""
        start = min(record["begin"][0] for record in self.records if record["begin"])
        return (time - start) / self.dilation

    def _worker(self, record: Mapping[str, Any]) -> dict[str, list[float]]:
        """The steps that a worker has done."""
        count = len(record["end"])
        keys = ("begin", "computed", "end")
        return {key: [self._seconds(time) for time in record[key][:count]] for key in keys}

    def _stats(self, rank: int) -> Mapping[str, Any]:
        stats: Mapping[str, Any] = self.records[rank]["stats"]
        return stats

    def _divergence(self) -> Divergence | None:
        """The first, of the workers that met one."""
        found = []
        for rank, record in enumerate(self.records):
            if record["diverged"] is not None:
                step, reason = record["diverged"]
                begun = self._seconds(record["begin"][step - 1])
                found.append(Divergence(rank, step - 1, begun, reason))
        return min(found, key=lambda divergence: divergence.seconds, default=None)

    def _refuse_failures(self) -> None:
        for rank, record in enumerate(self.records):
            if record["failure"] is not None:
                raise Error(f"worker {rank}: {record['failure']}")

    def _exposed_share(self, workers: Sequence[Mapping[str, Any]]) -> float:
        total = sum(
            end - begin
            for worker in workers
            for begin, end in zip(worker["begin"], worker["end"], strict=True)
        )
        waited = sum(self._stats(r).get("exposed_seconds", 0.0) for r in range(len(workers)))
        return waited / self.dilation / total if total else 0.0

    def _staleness(self) -> tuple[float | None, int | None]:
        pushes = [(s["stats"]["pushes"], s["stats"]) for s in self.records if s["stats"]]
        count = sum(number for number, _ in pushes)
        if count == 0:
            return None, None
        mean = sum(number * stats["mean_staleness"] for number, stats in pushes) / count
        return mean, max(int(stats["max_staleness"]) for _, stats in pushes)

    def _switch(self, switch: Mapping[str, Any]) -> dict[str, Any]:
        return decision(switch) | {"seconds": switch["seconds"] / self.dilation}

    def _curve(self, workers: Sequence[Mapping[str, Any]]) -> tuple[Point, ...]:
        """With a divergence the job has ended: all points that have a metric are of before."""
        points = []
        for step, loss, metric in self.records[0]["curve"]:
            seconds = workers[0]["end"][step - 1]
            if not math.isfinite(metric):
                continue
            samples = self.facts.batch_size * gradients_by(workers, seconds)
            points.append(Point(seconds, step, samples, loss, metric))
        return tuple(points)
