"""A cell that was run, seen against the target of its use case."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from .cell import Cell, Done, Outcome, Point, Reached, to_reach

Status = Literal["reached", "not reached", "diverged", "failed"]


@dataclass(frozen=True)
class Run:
    """A cell that was run."""

    cell: Cell
    outcome: Outcome | None
    error: str | None
    target: float

    @staticmethod
    def of(done: Done, target: float) -> Run:
        """Seen against the target of its use case."""
        return Run(done.cell, done.outcome, done.error, target)

    @property
    def status(self) -> Status:
        """What came of it. Who diverged has not reached the target, whatever was before."""
        if self.outcome is None:
            return "failed"
        if self.outcome.diverged is not None:
            return "diverged"
        return "not reached" if self.reached is None else "reached"

    @cached_property
    def curve(self) -> tuple[Point, ...]:
        """The points of the learning curve whose metric is a number."""
        points = () if self.outcome is None else self.outcome.curve
        # JSON has no words for numbers that are none: they are None when read again.
        return tuple(p for p in points if p.metric is not None and math.isfinite(p.metric))

    @cached_property
    def reached(self) -> Reached | None:
        """When the target was first reached; None: never, or the training diverged."""
        if self.outcome is None or self.outcome.diverged is not None:
            return None
        return to_reach(self.curve, self.target)

    @property
    def samples(self) -> float | None:
        """That all workers together had learnt from when the target was reached."""
        return None if self.reached is None else self.reached.samples

    @property
    def best(self) -> float | None:
        """The greatest metric of the curve."""
        return max((point.metric for point in self.curve), default=None)

    @property
    def final(self) -> float | None:
        """The last metric of the curve."""
        return self.curve[-1].metric if self.curve else None

    @property
    def switched(self) -> tuple[int, float] | None:
        """Step of the first switch, and worker 0's seconds there; None: there was none."""
        if self.outcome is None or not self.outcome.switches or not self.curve:
            return None
        step = int(self.outcome.switches[0]["step"])
        before = (0, 0.0)
        for point in self.curve:
            if point.step >= step:
                share = (step - before[0]) / (point.step - before[0])
                return step, before[1] + share * (point.seconds - before[1])
            before = (point.step, point.seconds)
        return step, before[1]
