"""The optimizer's numbers in each step of simulated workers."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..errors import InvalidArgument, Unsupported
from ..sim import given
from ._rules import Rule


class Schedule:
    """What the numbers are in each step, as the optimizer's schedulers have it.

    They depend on the step alone. Asynchronous workers, each at another step, have one schedule,
    which is followed once, as far as the first of them is.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        rule: Rule,
        scheduler: LRScheduler | None,
        epoch_scheduler: LRScheduler | None,
        steps_per_epoch: int,
    ) -> None:
        self._optimizer = optimizer
        self._rule = rule
        self._scheduler = scheduler
        self._epoch_scheduler = epoch_scheduler
        self._steps_per_epoch = steps_per_epoch
        self._known = [rule.values(optimizer.param_groups)]

    def numbers(self, step: int) -> list[float]:
        """Those of a step (from 1), of all param groups, in the rule's order.

        Raises:
            InvalidArgument: when a scheduler does not go so far.
        """
        while len(self._known) < step:
            self._follow(len(self._known))
        return self._known[step - 1]

    def check_unchanged(self, where: str) -> None:
        """Refuse numbers that were changed by anybody else, which no worker would follow.

        Raises:
            InvalidArgument: naming the first of them.
        """
        now, known = self._rule.values(self._optimizer.param_groups), self._known[-1]
        if now == known:
            return
        at = next(i for i, value in enumerate(now) if value != known[i])
        group, name = divmod(at, len(self._rule.names))
        raise InvalidArgument(
            f"the training changed {self._rule.names[name]} of the optimizer's param group {group} "
            f"from {known[at]} to {now[at]} in {where}: simulated workers follow schedulers only, "
            "give it as SimulatedTraining(..., scheduler=...) or epoch_scheduler=..."
        )

    def _follow(self, done: int) -> None:
        """After so many steps."""
        self._optimizer._opt_called = True  # type: ignore[attr-defined]  # the core makes the steps
        if self._scheduler is not None:
            _advance(self._scheduler, f"step {done + 1}")
        if self._epoch_scheduler is not None and done % self._steps_per_epoch == 0:
            _advance(self._epoch_scheduler, f"epoch {done // self._steps_per_epoch + 1}")
        self._known.append(self._rule.values(self._optimizer.param_groups))


def check_schedulers(
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    epoch_scheduler: LRScheduler | None,
    steps_per_epoch: int,
) -> None:
    """Refuse schedulers that cannot be followed.

    Raises:
        InvalidArgument: for one of another type or optimizer, and one that was not given.
        Unsupported: for one that decides by a metric.
    """
    given = {"scheduler": scheduler, "epoch_scheduler": epoch_scheduler}
    for label, value in given.items():
        if value is not None:
            _check_scheduler(optimizer, label, value)
    if epoch_scheduler is not None and steps_per_epoch == 0:
        raise InvalidArgument(
            "SimulatedTraining: epoch_scheduler needs steps_per_epoch=, the steps of a worker"
        )
    forgotten = hasattr(optimizer.__dict__.get("step"), "_wrapped_by_lr_sched")
    if forgotten and scheduler is None and epoch_scheduler is None:
        raise InvalidArgument(
            "the optimizer has a scheduler, which nothing would step: give it as "
            "SimulatedTraining(..., scheduler=...) to be stepped after each step, or as "
            "epoch_scheduler=... after each epoch"
        )


def _check_scheduler(optimizer: Optimizer, label: str, scheduler: object) -> None:
    kind = given.kind(scheduler)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise Unsupported(
            f"SimulatedTraining: {label} is {kind}, which decides by a metric that workers of a "
            "job do not share; use a scheduler that depends on steps or epochs alone"
        )
    if not isinstance(scheduler, LRScheduler):
        raise InvalidArgument(
            f"SimulatedTraining: {label} is {kind}, no LRScheduler of torch.optim.lr_scheduler"
        )
    if scheduler.optimizer is not optimizer:
        raise InvalidArgument(
            f"SimulatedTraining: {label} is of another optimizer: make it with the one that is "
            "given"
        )


def _advance(scheduler: LRScheduler, where: str) -> None:
    try:
        scheduler.step()
    except Exception as error:
        raise InvalidArgument(
            f"the {type(scheduler).__name__} has nothing for {where}: {error}"
        ) from error
