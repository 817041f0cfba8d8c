"""The learning rate that suits each strategy best, searched in steps of a factor of two.

The first seed tries the task's own rate and twice as much, and goes on in the direction that is
better until the best one has a worse neighbour on either side. The other seeds train at the best;
where any of them misses the target that the first one reached, all of them try half as much, too.
docs/decisions/0027-searched-rates.md says why it is done so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from .cell import Cell, Done, Study
from .run import Run

FURTHEST = 2.0**10
"""Factors are within 1 ÷ this and this."""

Find = Callable[[Cell], Done | None]
"""What a cell found, if it was run."""


def cells_of(study: Study, find: Find) -> list[Cell]:
    """The cells that a study asks for, in its order, as far as that is known.

    Where learning rates are searched, that is until the search needs a cell that was not run: such
    cells are among them. When all of them were run, the study is done.
    """
    found: list[Cell] = []
    for cell in study.cells():
        case, _ = study.cases_of(cell)
        if not case.searched:
            found.append(cell)
        elif cell.rate == case.rates[0]:
            found += _Search(cell, study.seeds, case.rates, case.target, find).asked()
    return found


class _Search:
    """Of one strategy in one combination; `start` is its first cell."""

    def __init__(
        self,
        start: Cell,
        seeds: Sequence[int],
        begin: Sequence[float],
        target: float,
        find: Find,
    ) -> None:
        self._start = start
        self._seeds = seeds
        self._begin = begin
        self._target = target
        self._find = find
        self._runs: dict[Cell, Run | None] = {}

    def asked(self) -> list[Cell]:
        rate = self._climb()
        while rate is not None and self._unsteady(rate) and rate / 2 >= 1 / FURTHEST:
            rate /= 2
        return sorted(self._runs, key=lambda cell: cell.rate)

    def _climb(self) -> float | None:
        """The factor that is better than half and twice as much; None: a run is missing."""
        tried = {rate: self._run(rate) for rate in self._begin}
        if any(run is None for run in tried.values()):
            return None
        low, high = self._begin
        best, step = (high, 2.0) if self._better(high, low) else (low, 0.5)
        while 1 / FURTHEST <= best * step <= FURTHEST:
            if self._run(best * step) is None:
                return None
            if not self._better(best * step, best):
                break
            best *= step
        return best

    def _unsteady(self, rate: float) -> bool:
        """Whether some seeds miss the target that the first one reaches; False: not known yet."""
        runs = [run for seed in self._seeds if (run := self._run(rate, seed)) is not None]
        reached = [run.reached is not None for run in runs]
        return len(runs) == len(self._seeds) and reached[0] and not all(reached)

    def _better(self, rate: float, than: float) -> bool:
        return _rank(self._run(rate)) < _rank(self._run(than))

    def _run(self, rate: float, seed: int | None = None) -> Run | None:
        cell = replace(self._start, rate=rate, seed=self._seeds[0] if seed is None else seed)
        if cell not in self._runs:
            done = self._find(cell)
            self._runs[cell] = None if done is None else Run.of(done, self._target)
        return self._runs[cell]


def _rank(run: Run | None) -> tuple[float, float]:
    """Smaller is better: by the time to the target, then by the best metric."""
    if run is None or run.outcome is None or run.status == "diverged":
        return math.inf, math.inf
    reached = math.inf if run.reached is None else run.reached.seconds
    return reached, math.inf if run.best is None else -run.best
