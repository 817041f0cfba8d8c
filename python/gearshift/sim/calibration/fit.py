"""The straight line time = latency + bytes / bandwidth that is relatively nearest to all points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDS = 50
_LEAST_RESIDUAL = 1e-4


@dataclass(frozen=True)
class Line:
    """A link as the α–β model sees it."""

    latency: float
    bandwidth: float

    def seconds(self, size: float) -> float:
        """Of a message of `size` bytes."""
        return self.latency + size / self.bandwidth

    def residual(self, size: float, measured: float) -> float:
        """Of a point, relative to what was measured."""
        return self.seconds(size) / measured - 1


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> Line:
    """Least sum of absolute relative residuals; neither number is negative.

    Relative, since points span five decades; absolute and not squared, so that one disturbed point
    moves nothing. Weighted least squares, with weights from the residuals of the round before.
    """
    weights = [1 / t**2 for t in seconds]
    line = Line(0.0, 1.0)
    for _ in range(_ROUNDS):
        line = _least_squares(sizes, seconds, weights)
        weights = [
            1 / (t**2 * max(abs(line.residual(n, t)), _LEAST_RESIDUAL))
            for n, t in zip(sizes, seconds, strict=True)
        ]
    return line


def _least_squares(
    sizes: Sequence[float], seconds: Sequence[float], weights: Sequence[float]
) -> Line:
    points = list(zip(weights, sizes, seconds, strict=True))
    total = sum(weights)
    mean_n = sum(w * n for w, n, _ in points) / total
    mean_t = sum(w * t for w, _, t in points) / total
    slope = sum(w * (n - mean_n) * (t - mean_t) for w, n, t in points)
    slope /= sum(w * (n - mean_n) ** 2 for w, n, _ in points)
    slope = max(slope, 1e-15)
    latency = mean_t - slope * mean_n
    if latency < 0:  # then the best line through the origin
        latency = 0.0
        slope = sum(w * n * t for w, n, t in points) / sum(w * n * n for w, n, _ in points)
    return Line(latency, 1 / slope)
