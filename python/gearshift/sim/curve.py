"""What a simulation learnt: the curve over virtual time, and whether training diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .durations import format_duration


@dataclass(frozen=True)
class CurvePoint:
    """Of worker 0."""

    seconds: float
    """Virtual, since the begin of training."""
    step: int
    loss: float
    """Mean over the batches of worker 0 since the point before."""
    metric: float | None
    """Of the parameters of worker 0; None without ``evaluate``."""


@dataclass(frozen=True)
class Divergence:
    """Training led to numbers that are none, or the loss ran away."""

    worker: int
    """Who met it first."""
    step: int
    """Steps that it had done."""
    seconds: float
    """Virtual, since the begin of training."""
    reason: str

    def __str__(self) -> str:
        time = format_duration(float(f"{self.seconds:.4g}"))
        return f"diverged after step {self.step} at {time}"


def curve_of(raw: Mapping[str, Any], diverged: Divergence | None = None) -> tuple[CurvePoint, ...]:
    """The points of the core's answer, up to a divergence."""
    points = (
        CurvePoint(seconds, step, loss, None if math.isnan(metric) else metric)
        for seconds, step, loss, metric in raw.get("curve", ())
    )
    if diverged is None:
        return tuple(points)
    return tuple(p for p in points if p.seconds <= diverged.seconds and math.isfinite(p.loss))


def divergence_of(raw: Mapping[str, Any]) -> Divergence | None:
    """Whether training diverged: ``raw["diverged"]`` is worker, step and reason."""
    if raw.get("diverged") is None:
        return None
    worker, step, reason = raw["diverged"]
    begins = raw["workers"][worker]["begin"]
    unfinished = step > len(begins)  # a host failed during the step
    seconds = raw["virtual_seconds"] if unfinished else begins[step - 1]
    return Divergence(worker, step - 1, seconds, reason)


def time_to(points: Sequence[CurvePoint], target: float) -> float | None:
    """The first virtual second at which the metric reaches `target`, or None.

    Between two points the metric is taken to run straight, unless one of them is infinite.
    """
    before: CurvePoint | None = None
    for point in points:
        if point.metric is None:
            continue
        if point.metric >= target:
            return point.seconds if before is None else _crossing(before, point, target)
        before = point
    return None


def _crossing(before: CurvePoint, after: CurvePoint, target: float) -> float:
    assert before.metric is not None
    assert after.metric is not None
    if math.isinf(before.metric) or math.isinf(after.metric):
        return after.seconds  # no straight line leads there
    share = (target - before.metric) / (after.metric - before.metric)
    return before.seconds + share * (after.seconds - before.seconds)
