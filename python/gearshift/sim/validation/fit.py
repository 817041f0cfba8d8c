"""Finds the parameters with which the model is nearest to what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from ..processes import Pool
from .cases import Configuration
from .model import Parameters, predict

_BOUNDS = {
    "efficiency": (0.9, 1.0),
    "burst": (0.0, 4.0),
    "latency": (5e-6, 1e-3),
    "per_message": (1e-6, 1e-3),
}
_FIRST_STEPS = {"efficiency": 0.02, "burst": 1.0, "latency": 50e-6, "per_message": 50e-6}
_ROUNDS = 3


def fit(
    rows: Sequence[Configuration],
    measured: Mapping[str, float],
    pool: Pool,
    note: Callable[[str], None],
) -> Parameters:
    """Least mean absolute relative error, one parameter after another, with steps that shrink."""

    def loss(parameters: Parameters) -> float:
        predicted = predict(rows, parameters, pool)
        return fmean(abs(predicted[row.name] / measured[row.name] - 1) for row in rows)

    best = Parameters()
    least = loss(best)
    for number in range(_ROUNDS):
        for key, (low, high) in _BOUNDS.items():
            step = _FIRST_STEPS[key] / 2**number
            for direction in (1, -1):
                value = min(high, max(low, getattr(best, key) + direction * step))
                tried = replace(best, **{key: value})
                error = loss(tried) if tried != best else least
                if error < least:
                    best, least = tried, error
                    break
        note(f"fit {number + 1}/{_ROUNDS}: mean error {100 * least:.2f} % with {best}")
    return best
