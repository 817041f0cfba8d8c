"""How step times are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any


def step_seconds(workers: Sequence[Mapping[str, Any]], warmup: int) -> float:
    """The median over the steps of the mean over the workers: a disturbed step changes nothing."""
    steps = range(warmup, len(workers[0]["end"]))
    return median(fmean(w["end"][k] - w["begin"][k] for w in workers) for k in steps)


def spread(workers: Sequence[Mapping[str, Any]], warmup: int) -> float:
    """Half of the distance between the quartiles of the steps' times, as a share of the median."""
    steps = range(warmup, len(workers[0]["end"]))
    times = sorted(fmean(w["end"][k] - w["begin"][k] for w in workers) for k in steps)
    quarter = len(times) // 4
    return (times[-1 - quarter] - times[quarter]) / 2 / median(times)


def percentile(values: Sequence[float], share: float) -> float:
    """With linear interpolation."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def summary(errors: Sequence[float]) -> dict[str, float]:
    """Of relative errors, with sign."""
    absolute = [abs(e) for e in errors]
    return {
        "configurations": len(errors),
        "mean_absolute_error": fmean(absolute),
        "p95_absolute_error": percentile(absolute, 0.95),
        "worst_absolute_error": max(absolute),
        "mean_error": fmean(errors),
    }
