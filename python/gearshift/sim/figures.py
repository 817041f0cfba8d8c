"""What a simulation's raw numbers say: steps, throughput, exposed communication, waiting.

Everything is a function of the core's answer, so that each figure can be computed by hand from it.
docs/simulating.md defines them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import Error, InvalidArgument
from ..strategy import (
    BSP,
    AllReduce,
    LocalSGD,
    LossPlateau,
    Strategy,
    StrategySwitch,
    is_asynchronous,
)


@dataclass(frozen=True)
class Distribution:
    """Of the times of steps, in seconds."""

    mean: float
    p50: float
    p95: float
    least: float
    most: float

    @staticmethod
    def of(values: Sequence[float]) -> Distribution:
        """Of at least one value; percentiles lie between neighbours in proportion."""
        p50, p95 = np.percentile(values, [50, 95])
        return Distribution(
            float(np.mean(values)), float(p50), float(p95), float(min(values)), float(max(values))
        )


@dataclass(frozen=True)
class Waiting:
    """Seconds per step, mean over the workers, in which a worker only waits.

    ``exposed = slower_workers + communication``.
    """

    exposed: float
    slower_workers: float
    """Until the slowest has computed its gradients; 0 where nobody waits for it (SSP, ASP).
    Under local SGD those since the last round."""
    communication: float
    """The rest: data on its way, servers at work, and under SSP the bound."""
    hidden: float
    """Communication behind computation: not waiting."""


@dataclass(frozen=True)
class Link:
    """One direction of a link."""

    name: str
    bandwidth: float
    """Bytes per second."""
    bytes: float
    """Carried in the whole training."""
    utilisation: float
    """Share of what it could have carried."""


def in_force(strategy: Strategy, raw: Mapping[str, Any]) -> Strategy:
    """What was: a switch that never happened was its start."""
    if isinstance(strategy, StrategySwitch) and not raw["switches"]:
        return strategy.start
    return strategy


def round_length(strategy: Strategy) -> int:
    """Steps from one round of local SGD to the next, which are unequal; 1: all steps are alike."""
    return strategy.every if isinstance(strategy, LocalSGD) else 1


def fewest_steps(warmup: int, every: int) -> int:
    """So many have a whole round after the warm-up."""
    return (-(-warmup // every) + 1) * every


def is_synchronous(strategy: Strategy) -> bool:
    """Whether every update is made of all workers' gradients of one step."""
    if isinstance(strategy, StrategySwitch):
        return is_synchronous(strategy.start) and is_synchronous(strategy.then)
    if isinstance(strategy, LocalSGD):
        return False
    return isinstance(strategy, AllReduce) or isinstance(strategy.consistency, BSP)


def idle_switch(strategy: Strategy, raw: Mapping[str, Any]) -> str | None:
    """Why a strategy that switches never did in a training; None: it did, or is no such one."""
    if not isinstance(strategy, StrategySwitch) or raw["switches"]:
        return None
    if not isinstance(strategy.policy, LossPlateau):
        return "never switched: its policy did not ask for it"
    epochs = raw.get("steps_per_epoch")
    if epochs is None:
        return "never switched: it waits for the loss, which only a simulation that learns has"
    if epochs == 0:
        return (
            "never switched: it looks at the loss of epochs, and the task does not say how long "
            "those are: give its SimulatedTraining steps_per_epoch="
        )
    return "never switched: it saw no plateau of the loss"


def counted_steps(
    workers: Sequence[Mapping[str, Any]], strategy: Strategy, warmup: int, diverged: bool
) -> list[range]:
    """Those of :func:`measured_steps` under a strategy that was in force.

    Where training diverged during the warm-up, better those than none.
    """
    cut, every = is_asynchronous(strategy), round_length(strategy)
    counted = measured_steps(workers, warmup, cut, every)
    if diverged and not any(counted):
        return measured_steps(workers, 0, cut, every)
    return counted


def measured_steps(
    workers: Sequence[Mapping[str, Any]], warmup: int, cut: bool, every: int = 1
) -> list[range]:
    """The steps of each worker that count: without the first `warmup`.

    With `cut`, only those that end before the first worker has done all of its steps: what the
    others do afterwards, they do on an emptier network. Who has none of these counts with all.

    Of rounds of `every` steps only whole ones count, unless there is none.
    """
    horizon = min((w["end"][-1] for w in workers if w["end"]), default=0.0)
    chosen = []
    for worker in workers:
        count = len(worker["end"])
        within = sum(end <= horizon for end in worker["end"])
        last = within if cut and within > warmup else count
        whole = range(-(-warmup // every) * every, last // every * every)
        chosen.append(whole or range(warmup, last))
    return chosen


def step_times(
    workers: Sequence[Mapping[str, Any]], steps: Sequence[range], failure: str | None = None
) -> list[float]:
    """Of the given steps, all workers in a row.

    Raises:
        Error: when there is none, as after that failure.
    """
    times = [w["end"][i] - w["begin"][i] for w, chosen in zip(workers, steps, strict=True)
             for i in chosen]  # fmt: skip
    if not times:
        why = f": {failure}" if failure else ""
        raise Error(f"training ended before the warm-up was over{why}")
    return times


def throughput(
    workers: Sequence[Mapping[str, Any]], steps: Sequence[range], batch_size: int
) -> float:
    """Samples per second: the sum of what each worker does in its steps.

    Time runs from when the first of them was begun for the first time: that of steps lost in a
    failure, and until the host was back, is part of it.

    Raises:
        InvalidArgument: when it is none.
    """
    samples_per_second = 0.0
    for worker, chosen in zip(workers, steps, strict=True):
        if not chosen:
            continue
        seconds = worker["end"][chosen[-1]] - _first_begin(worker, chosen[0])
        if seconds <= 0:
            raise InvalidArgument("the steps take less than a nanosecond, the virtual clock's tick")
        samples_per_second += batch_size * len(chosen) / seconds
    return samples_per_second


def _first_begin(worker: Mapping[str, Any], step: int) -> float:
    begins: Sequence[float] = worker.get("first_begins") or worker["begin"]
    return begins[step]


def ideal_throughput(speeds: Sequence[float], batch_size: int, compute_seconds: float) -> float:
    """Samples per second of workers on hosts of these speeds, if each were alone."""
    return sum(speeds) * batch_size / compute_seconds


def waiting(workers: Sequence[Mapping[str, Any]], synchronous: bool) -> Waiting:
    """Where the time between computations goes, over all steps."""
    count = sum(len(worker["end"]) for worker in workers)
    if count == 0:
        return Waiting(0.0, 0.0, 0.0, 0.0)
    slowest = _slowest(workers) if synchronous else []
    exposed = sum(worker["exposed_seconds"] for worker in workers)
    slower = sum(min(_behind(worker, slowest), worker["exposed_seconds"]) for worker in workers)
    return Waiting(
        exposed=exposed / count,
        slower_workers=slower / count,
        communication=(exposed - slower) / count,
        hidden=_hidden(workers),
    )


def local_waiting(
    workers: Sequence[Mapping[str, Any]], steps: Sequence[range], optimizer_share: float
) -> Waiting:
    """The same under local SGD, over the given steps.

    A worker computes, updates its parameters by itself, and then waits, if it does: for those that
    are late with all of their steps since the last round, and for the round.

    Args:
        optimizer_share: how long its own update takes, in proportion to forward and backward.
    """
    count = sum(map(len, steps))
    if count == 0:
        return Waiting(0.0, 0.0, 0.0, 0.0)
    slowest = _slowest(workers)
    exposed = slower = 0.0
    for worker, chosen in zip(workers, steps, strict=True):
        for i in chosen:
            begin, computed, end = (worker[key][i] for key in ("begin", "computed", "end"))
            waited = max(end - computed - optimizer_share * (computed - begin), 0.0)
            exposed += waited
            slower += min(slowest[i] - computed, waited) if i < len(slowest) else 0.0
    return Waiting(exposed / count, slower / count, (exposed - slower) / count, _hidden(workers))


def _hidden(workers: Sequence[Mapping[str, Any]]) -> float:
    communicated = sum(worker["communication_seconds"] for worker in workers)
    exposed = sum(worker["exposed_seconds"] for worker in workers)
    return max(communicated - exposed, 0.0) / sum(len(worker["end"]) for worker in workers)


def _slowest(workers: Sequence[Mapping[str, Any]]) -> list[float]:
    """When the last worker had computed its gradients, of each step that all have done."""
    return [max(times) for times in zip(*(worker["computed"] for worker in workers), strict=False)]


def _behind(worker: Mapping[str, Any], slowest: Sequence[float]) -> float:
    """For how long a worker waits, within its steps, until the slowest has computed."""
    return sum(
        min(last - own, end - own)
        for last, own, end in zip(slowest, worker["computed"], worker["end"], strict=False)
    )


def staleness(workers: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """How many pushes of all workers lagged by how many versions."""
    total: dict[int, int] = {}
    for worker in workers:
        for lag, count in worker["staleness"].items():
            total[int(lag)] = total.get(int(lag), 0) + count
    return dict(sorted(total.items()))


def links(raw: Mapping[str, Any]) -> tuple[Link, ...]:
    """All links, with their share of use."""
    seconds = raw["virtual_seconds"]
    return tuple(
        Link(
            link["name"],
            link["bandwidth"],
            link["bytes"],
            link["bytes"] / (link["bandwidth"] * seconds) if link["bandwidth"] * seconds else 0.0,
        )
        for link in raw["links"]
    )
