"""Which strategy is the fastest where, as far as can be told.

A cell of a sweep is one choice of values for all axes but the strategy, given by their indices.
What strategies are compared by is the time per sample: 1 / throughput.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from .axes import Axis

Cell = tuple[int, ...]

SAME = 0.001
"""Throughputs that differ by less, in proportion, are equal: strategies that do the same."""


@dataclass(frozen=True)
class Winner:
    """The fastest strategy of a cell."""

    strategy: str
    throughput: float
    margin: float | None
    """By how much more than the second, as a share of that one; None: it was alone."""


@dataclass(frozen=True)
class Leaders:
    """Who may be the fastest of a cell: those no slower than the winner by more than the margin."""

    strategies: tuple[str, ...]
    margin: float
    """That of error, as a share."""
    lead: float | None
    """Of the fastest over the fastest of the others, as a share; None: there is none."""


@dataclass
class Grid:
    """The throughput of all cells and strategies; those that failed are missing."""

    axes: Sequence[Axis]
    throughput: dict[Cell, dict[str, float]] = field(default_factory=dict)
    half_width: dict[Cell, dict[str, float]] = field(default_factory=dict)
    """The share by which each throughput may be off for steps that were not simulated."""
    error: float = 0.0
    """How far the model was from measured runs, as a share."""

    def cells(self) -> Iterator[Cell]:
        """All of them, the last axis first."""
        return product(*(range(len(axis.values)) for axis in self.axes))

    def point(self, cell: Cell) -> dict[str, float | str]:
        """The values of a cell, by axis."""
        return {axis.name: axis.values[i] for axis, i in zip(self.axes, cell, strict=True)}

    def add(self, cell: Cell, strategy: str, throughput: float, half_width: float = 0.0) -> None:
        """What one simulation found."""
        self.throughput.setdefault(cell, {})[strategy] = throughput
        self.half_width.setdefault(cell, {})[strategy] = half_width

    def margin(self, cell: Cell, strategy: str) -> float:
        """By how much a strategy must be faster than another one, as a share."""
        return margin_of_error(self.half_width[cell][strategy], self.error)

    def winner(self, cell: Cell) -> Winner | None:
        """The fastest; None: nothing worked there."""
        found = self.throughput.get(cell)
        return best(found) if found else None

    def leaders(self, cell: Cell) -> Leaders | None:
        """The fastest, and those that cannot be told from it; None: nothing worked there."""
        found = self.throughput.get(cell)
        if not found:
            return None
        fastest = max(found, key=found.__getitem__)
        margin = self.margin(cell, fastest)
        names = [name for name, value in found.items() if value * (1 + margin) >= found[fastest]]
        others = [value for name, value in found.items() if name not in names]
        return Leaders(tuple(names), margin, found[fastest] / max(others) - 1 if others else None)


def margin_of_error(uncertainty: float, model: float | None) -> float:
    """By how much one strategy must be faster than another one to be told from it, as a share.

    Args:
        uncertainty: of the estimate of the faster one.
        model: how far the model was from measured runs; None: nobody knows.
    """
    return max(SAME, uncertainty, model or 0.0)


def best(throughput: Mapping[str, float]) -> Winner:
    """The strategy with the greatest throughput; of equals the first."""
    most = max(throughput.values())
    first = next(name for name, value in throughput.items() if value * (1 + SAME) >= most)
    others = [value for name, value in throughput.items() if name != first]
    margin = max(throughput[first] / max(others) - 1, 0.0) if others else None
    return Winner(first, throughput[first], margin)
