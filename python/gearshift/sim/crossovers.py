"""Where the fastest strategy changes along an axis of a sweep.

What strategies are compared by is the time per sample: 1 / throughput. Between two neighbouring
cells its logarithm is taken to run straight over that of the axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .winners import Cell, Grid, best


@dataclass(frozen=True)
class Crossover:
    """A place where one strategy takes over from another: both are equally fast there.

    Before it the one, after it the other leads by more than the margin of error.
    """

    axis: str
    value: float
    position: float
    """The same as an index of the axis: 1.5 lies half way from the second value to the third."""
    cell: Cell
    """The last one before it."""
    between: tuple[str, str]
    """The winner before, and after."""


@dataclass(frozen=True)
class _Place:
    """A cell of a line of them, or a place between two."""

    position: float
    throughput: Mapping[str, float]
    margin: Mapping[str, float]
    """That of error, of each strategy."""

    def leads(self, one: str, other: str) -> bool:
        """Whether the one is faster by more than the margin of error; both worked."""
        return self.throughput[one] > self.throughput[other] * (1 + self.margin[one])

    def times(self, names: Sequence[str]) -> list[float]:
        """Per sample."""
        return [1 / self.throughput[name] for name in names]


def crossovers(grid: Grid) -> list[Crossover]:
    """Of all lines of cells along a numeric axis: one for each change of the winner.

    Several lie between two cells where a strategy that is the fastest in neither wins in between.
    """
    found = []
    for number, axis in enumerate(grid.axes):
        for cell in grid.cells():
            if axis.numeric and cell[number] == 0:
                found += _along(grid, cell, number)
    return sorted(found, key=lambda crossover: crossover.cell)


def _along(grid: Grid, start: Cell, number: int) -> list[Crossover]:
    """Of the line of cells that begins at `start`, along the axis of that number.

    A winner stays one until another strategy leads it by more than the margin of error; so chance
    makes no crossovers where two are level. That is one only if the former winner had such a lead.
    """
    found = []
    leader: str | None = None
    since = 0  # the leader was led by nobody from here on
    places = _places(grid, start, number)
    for index, place in enumerate(places):
        winner = best(place.throughput).strategy if place.throughput else None
        if leader is None or winner is None:
            leader, since = winner, index
            continue
        pair = leader, winner
        together = index + 1  # both worked from here on
        while together > since and all(name in places[together - 1].throughput for name in pair):
            together -= 1
        if together <= index and not place.leads(winner, leader):
            continue
        led = [i for i in range(together, index) if places[i].leads(leader, winner)]
        if led:
            found.append(_crossover(grid, start, number, places[led[-1] : index + 1], pair))
        leader, since = winner, led[-1] + 1 if led else min(together, index)
    return found


def _crossover(
    grid: Grid, start: Cell, number: int, places: Sequence[_Place], pair: tuple[str, str]
) -> Crossover:
    """Where the second of a pair becomes the faster one; it is that in the last of the places."""
    times = [place.times(pair) for place in places]
    after = next(i for i in range(1, len(times)) if times[i][1] <= times[i][0])
    part = crossing(times[after - 1], times[after])
    ends = places[after - 1].position, places[after].position
    position = ends[0] + part * (ends[1] - ends[0])
    index = int(ends[0])
    axis = grid.axes[number]
    low, high = (float(axis.values[i]) for i in (index, index + 1))
    cell = (*start[:number], index, *start[number + 1 :])
    return Crossover(axis.name, between(low, high, position - index), position, cell, pair)


def _places(grid: Grid, start: Cell, number: int) -> list[_Place]:
    """The cells of a line, and the places between them where a third strategy wins."""
    places: list[_Place] = []
    for index in range(len(grid.axes[number].values)):
        cell = (*start[:number], index, *start[number + 1 :])
        found = grid.throughput.get(cell, {})
        place = _Place(index, found, {name: grid.margin(cell, name) for name in found})
        if places and places[-1].throughput and found:
            first, second = (best(p.throughput).strategy for p in (places[-1], place))
            if first in found and second in places[-1].throughput:
                places += _thirds(places[-1], place, first, second)
        places.append(place)
    return places


def _thirds(before: _Place, after: _Place, first: str, second: str) -> list[_Place]:
    """The places between two neighbouring cells where a third strategy wins.

    Of straight lines the lowest at each place form a curve that only bends down. So two that are
    the lowest at the ends are so on all of the way, unless a third one lies below them where they
    cross; then it is asked how that one takes over, and how it is followed.

    Args:
        first: the fastest in the first cell.
        second: the fastest in the second one.
    """
    if first == second:
        return []
    part = crossing(before.times((first, second)), after.times((first, second)))
    both = [name for name in before.throughput if name in after.throughput]
    there = _Place(
        before.position + part,
        {n: between(before.throughput[n], after.throughput[n], part)
         for n in dict.fromkeys((first, second, *both))},
        {n: max(before.margin[n], after.margin[n]) for n in both},
    )  # fmt: skip
    third = best(there.throughput).strategy
    if third in (first, second):
        return []
    return [
        *_thirds(before, after, first, third), there, *_thirds(before, after, third, second)
    ]  # fmt: skip


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
