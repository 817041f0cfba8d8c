"""Means and intervals of ratios over few seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

FEWEST = 3
"""Seeds from which on there is an interval."""

# Student's t, 97.5 %, for 1 to 30 degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Ratio:
    """A geometric mean over seeds, with the ends of its 95 % interval; None: too few seeds."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t.

    Beyond 30 degrees of freedom by the expansion of Cornish and Fisher, to three digits.
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    )  # fmt: skip


def ratio(logarithms: Sequence[float]) -> Ratio:
    """Of the logarithms of one ratio per seed, at least one."""
    count = len(logarithms)
    mean = fmean(logarithms)
    if count < FEWEST:
        return Ratio(math.exp(mean), None, None, count)
    half = student(count - 1) * stdev(logarithms) / math.sqrt(count)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), count)


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one positive value."""
    return math.exp(fmean(math.log(value) for value in values))
