"""Which strategy is the fastest where, and where the fastest changes.

A cell of a sweep is one choice of values for all axes but the strategy, given by their indices.
What strategies are compared by is the time per sample: 1 / throughput.
"""

from __future__ import annotations

import math
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
class Crossover:
    """Between two neighbouring cells, the place where both of their winners are equally fast."""

    axis: str
    value: float
    position: float
    """The same as an index of the axis: 1.5 lies half way from the second value to the third."""
    cell: Cell
    """That before it."""
    between: tuple[str, str]
    """The winner before, and after."""


@dataclass
class Grid:
    """The throughput of all cells and strategies; those that failed are missing."""

    axes: Sequence[Axis]
    throughput: dict[Cell, dict[str, float]] = field(default_factory=dict)

    def cells(self) -> Iterator[Cell]:
        """All of them, the last axis first."""
        return product(*(range(len(axis.values)) for axis in self.axes))

    def point(self, cell: Cell) -> dict[str, float | str]:
        """The values of a cell, by axis."""
        return {axis.name: axis.values[i] for axis, i in zip(self.axes, cell, strict=True)}

    def add(self, cell: Cell, strategy: str, throughput: float) -> None:
        """What one simulation found."""
        self.throughput.setdefault(cell, {})[strategy] = throughput

    def winner(self, cell: Cell) -> Winner | None:
        """The fastest; None: nothing worked there."""
        found = self.throughput.get(cell)
        return best(found) if found else None


def best(throughput: Mapping[str, float]) -> Winner:
    """The strategy with the greatest throughput; of equals the first."""
    most = max(throughput.values())
    first = next(name for name, value in throughput.items() if value * (1 + SAME) >= most)
    others = [value for name, value in throughput.items() if name != first]
    margin = max(throughput[first] / max(others) - 1, 0.0) if others else None
    return Winner(first, throughput[first], margin)


def crossovers(grid: Grid) -> list[Crossover]:
    """Of all cells that are neighbours on a numeric axis: one for each change of the winner.

    Several lie between two cells where a strategy that is the fastest in neither wins in between.
    """
    found = []
    for cell in grid.cells():
        for number, axis in enumerate(grid.axes):
            if not axis.numeric or cell[number] + 1 >= len(axis.values):
                continue
            after = (*cell[:number], cell[number] + 1, *cell[number + 1 :])
            found += _between(grid, cell, after, number)
    return found


def _between(grid: Grid, cell: Cell, after: Cell, number: int) -> list[Crossover]:
    first, second = grid.winner(cell), grid.winner(after)
    if first is None or second is None:
        return []
    here, there = grid.throughput[cell], grid.throughput[after]
    times = {name: (1 / here[name], 1 / there[name]) for name in here if name in there}
    if first.strategy not in times or second.strategy not in times:
        return []
    axis = grid.axes[number]
    low, high = (float(axis.values[i]) for i in (cell[number], cell[number] + 1))
    return [
        Crossover(axis.name, between(low, high, part), cell[number] + part, cell, names)
        for names, part in changes(times, first.strategy, second.strategy)
    ]


def changes(
    times: Mapping[str, tuple[float, float]], first: str, second: str
) -> list[tuple[tuple[str, str], float]]:
    """Who is followed by whom, and at which part of the way, if logarithms of times run straight.

    Of straight lines the lowest at each place form a curve that only bends down. So two that are
    the lowest at the ends are so on all of the way, unless a third one lies below them where they
    cross; then it is asked how that one takes over, and how it is followed.

    Args:
        times: of each strategy at the beginning and at the end.
        first: the fastest at the beginning.
        second: the fastest at the end.
    """
    if first == second:
        return []
    part = crossing(*zip(times[first], times[second], strict=True))
    there = {name: 1 / between(*times[name], part) for name in (first, second, *times)}
    third = best(there).strategy
    if third in (first, second):
        return [((first, second), part)]
    return changes(times, first, third) + changes(times, third, second)


def crossing(before: Sequence[float], after: Sequence[float]) -> float:
    """The part of the way at which two times are equal, if their logarithms run straight.

    Args:
        before: both times at the beginning, of which the first is the shorter one.
        after: at the end; the second is the shorter one.
    """
    lead = max(math.log(before[1] / before[0]), 0.0)
    lag = max(math.log(after[0] / after[1]), 0.0)
    return lead / (lead + lag) if lead + lag > 0 else 0.5


def between(low: float, high: float, part: float) -> float:
    """The value so far from `low` to `high`, on a logarithmic scale if both are positive."""
    if low <= 0:
        return low + part * (high - low)
    return low * (high / low) ** part
