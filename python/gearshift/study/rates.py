"""Tasks with another learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument
from ..sim import task as tasks
from .cell import rate_text

if TYPE_CHECKING:
    from ..torch import SimulatedTraining

_FILE = '''"""A task with {rate!r} of its learning rate: made by gearshift study."""

from gearshift.study.rates import scaled


def training():
    return scaled({task}, {rate!r})
'''


def task_file(folder: Path, task: str, rate: float, name: str) -> str:
    """The task that learns at `rate` times the rate: itself, or a file that is written for it."""
    if rate == 1:
        return task
    path = folder / f"{name}-rate-{rate_text(rate)}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    # The path of a task may hold bytes that are no UTF-8.
    path.write_text(_FILE.format(task=ascii(task), rate=rate), encoding="utf-8")
    return f"{path.absolute()}:training"


def scaled(task: str, rate: float) -> SimulatedTraining:
    """The training of a task, whose learning rates are `rate` times as great in all steps.

    Raises:
        InvalidArgument: for a task that is wrong, and schedulers that don't go by the rate that
            the optimizer has at the begin (OneCycleLR, CyclicLR, SWALR).
    """
    training: SimulatedTraining = tasks.make(task)
    scale(training, rate)
    return training


def scale(training: SimulatedTraining, rate: float) -> None:
    """Make the learning rates of all steps `rate` times as great; raises as :func:`scaled`."""
    for group in training.optimizer.param_groups:
        for key, name in (("max_lr", "OneCycleLR"), ("swa_lr", "SWALR")):
            if key in group:
                raise _unscalable(name)
        group["lr"] *= rate
        if "initial_lr" in group:
            group["initial_lr"] *= rate
    for scheduler in (training.scheduler, training.epoch_scheduler):
        if scheduler is not None:
            _scale(scheduler, rate)


def _scale(scheduler: Any, rate: float) -> None:
    for part in getattr(scheduler, "_schedulers", ()):
        _scale(part, rate)
    if hasattr(scheduler, "max_lrs"):
        raise _unscalable(type(scheduler).__name__)
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [rate * value for value in scheduler.base_lrs]
    if hasattr(scheduler, "eta_min"):  # what cosines go down to
        scheduler.eta_min *= rate


def _unscalable(name: str) -> InvalidArgument:
    return InvalidArgument(
        f"learning_rates: {name} has rates of its own, which cannot be scaled; give tasks of "
        "several rates instead, as use cases"
    )
