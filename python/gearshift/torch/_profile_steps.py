"""From the times of single steps to a workload."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import Error
from ..sim.durations import format_duration
from ..sim.workload import Variability, Workload, WorkloadParameter

MAX_FACTORS = 200
_GREAT_SPREAD = 0.5
_SHORTEST = 1e-9
"""A workload has no time of zero."""


@dataclass
class StepTimes:
    """One step. What precedes its last backward is its forward: earlier micro-batches, too."""

    forward: float = 0.0
    backward: float = 0.0
    """The last one, until the last gradient."""
    optimizer: float = 0.0
    samples: float = 0.0
    ready: dict[int, float] = field(default_factory=dict)
    """By a parameter's key, after the last backward began; 0 for a gradient that was final then."""
    backwards: int = 0
    unseen: bool = False
    """Whether modules were called without gradients before its forward, which lacks their time."""

    @property
    def compute(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward

    def begin_backward(self, forward: float) -> None:
        """Another backward begins, after so many seconds of forward."""
        self.forward += self.backward + forward
        self.backward = 0.0
        self.ready = dict.fromkeys(self.ready, 0.0)
        self.backwards += 1


@dataclass(frozen=True)
class ParameterInfo:
    """A trainable parameter, as the recorder knows it."""

    key: int
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Recording:
    """A workload, the steps that it was made of, and what its user ought to know."""

    workload: Workload
    steps: tuple[StepTimes, ...]
    warnings: tuple[str, ...]


def summarize(
    steps: Sequence[StepTimes],
    parameters: Sequence[ParameterInfo],
    name: str,
    batch_size: int | None,
) -> Recording:
    """Make a workload of the steps.

    Proportions are medians over the steps, which a disturbed step does not move. They are scaled so
    that forward and backward together last what they did on average: the variability's factors,
    whose mean is 1, then give the steps' own distribution.

    Raises:
        Error: when there is no step, or no parameter.
    """
    if not steps or not parameters:
        raise Error("nothing to make a workload of: no training step was seen")
    warnings: list[str] = []
    forward = statistics.median(s.forward for s in steps)
    backward = statistics.median(s.backward for s in steps)
    mean = statistics.fmean(s.compute for s in steps)
    scale = mean / max(forward + backward, _SHORTEST)
    forward, backward = max(forward * scale, _SHORTEST), max(backward * scale, _SHORTEST)
    made = []
    for p in parameters:
        times = [s.ready[p.key] for s in steps if p.key in s.ready]
        if not times:
            warnings.append(
                f"parameter '{p.name}' never got a gradient: it counts as ready when backward ends"
            )
        ready = min(statistics.median(times) * scale, backward) if times else backward
        made.append(WorkloadParameter(p.name, p.shape, p.dtype, ready))
    workload = Workload(
        name=name,
        batch_size=_batch_size(steps, warnings) if batch_size is None else batch_size,
        forward_seconds=forward,
        backward_seconds=backward,
        optimizer_seconds=statistics.median(s.optimizer for s in steps),
        parameters=tuple(made),
        variability=Variability("empirical", factors=factors_of([s.compute for s in steps])),
    )
    workload.validate()
    unseen = sum(step.unseen for step in steps)
    if 2 * unseen > len(steps):
        warnings.append(
            f"before forward of {unseen} of {len(steps)} steps, modules were called without "
            "gradients (a frozen part, a teacher): their time is not in the file"
        )
    spread = workload.variability.relative_spread()
    if spread > _GREAT_SPREAD:
        warnings.append(f"the steps differ much (spread {100 * spread:.0f} %): {_longest(steps)}")
    return Recording(workload, tuple(steps), tuple(warnings))


def _longest(steps: Sequence[StepTimes]) -> str:
    times = [step.compute for step in steps]
    number = times.index(max(times))
    longest, median = (_short(value) for value in (times[number], statistics.median(times)))
    return (
        f"step {number + 1} after the warm-up took {longest}, the median {median}. Is this machine "
        "busy, or are there more threads than it has processors for? Was something compiled or "
        "loaded: would it be over after a longer warm-up?"
    )


def _short(seconds: float) -> str:
    return format_duration(float(f"{seconds:.3g}"))


def factors_of(seconds: Sequence[float]) -> tuple[float, ...]:
    """The times relative to their mean; of more than 200 as many quantiles."""
    values = list(seconds)
    if len(values) > MAX_FACTORS:
        ordered = sorted(values)
        values = [
            ordered[(2 * i + 1) * len(ordered) // (2 * MAX_FACTORS)] for i in range(MAX_FACTORS)
        ]
    mean = max(statistics.fmean(values), _SHORTEST)
    return tuple(max(round(value / mean, 4), 1e-4) for value in values)


def _batch_size(steps: Sequence[StepTimes], warnings: list[str]) -> int:
    """The commonest: an epoch's last batch may be smaller."""
    size = round(statistics.mode(s.samples for s in steps))
    if size < 1:
        warnings.append("the batch size could not be seen: it is 1 in the file, say what it is")
    return max(size, 1)
