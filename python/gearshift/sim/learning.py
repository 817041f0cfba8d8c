"""A simulation that learns, within its process; the only part of the simulator that needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import Error, InvalidArgument, Unsupported
from ..strategy import AllReduce, LocalSGD, Strategy
from . import given, task
from .messages import Request

Simulate = Callable[..., dict[str, Any]]
"""The core's simulation, which lacks only the arguments of learning."""


def learn(request: Request, workers: int, simulate: Simulate) -> dict[str, Any]:
    """The core's result, with ``diverged``: None, or worker, step and reason;
    ``steps_per_epoch``, 0 where the training does not say; and ``nan_metrics``, the evaluations
    that returned no number.

    It ends there when a parameter server found that the loss ran away.

    Raises:
        InvalidArgument: for a task that is wrong, or whose functions fail.
        Unsupported: for an optimizer that cannot be simulated, and without torch.
    """
    assert request.train is not None
    try:
        import gearshift.torch as gst
        from gearshift.torch import _learner, _simulated
    except ImportError as error:
        raise Unsupported(f"train: {error}; `pip install 'gearshift[torch]'` does it") from error
    _learner.one_thread()
    _learner.seed_all(request.seed, "training")
    training = task.make(request.train)
    if not isinstance(training, gst.SimulatedTraining):
        kind = given.kind(training)
        raise InvalidArgument(f"train: {request.train} returned {kind}, no SimulatedTraining")
    rule = _simulated.check_training(training)
    kind, names, groups = rule.spec()
    learner = _learner.Learner(
        training,
        rule,
        workers=workers,
        seed=request.seed,
        share_every=_share_every(request.strategy),
    )
    try:
        result = simulate(
            optimizer=kind,
            hyper_names=names,
            hypers=rule.values(training.optimizer.param_groups),
            groups=groups,
            param_groups=training.param_groups(),
            learner=learner,
            evaluate_every=request.evaluate_every,
            # The core's integers are shorter than Python's.
            steps_per_epoch=min(training.steps_per_epoch, request.steps + 1),
        )
    except Error as error:
        _raise(learner.error, error)
    diverged = learner.diverged
    if result["diverged"] is not None:
        worker, reason = result["diverged"]
        diverged = worker, learner.last_step[worker], reason
    return result | {
        "diverged": diverged,
        "steps_per_epoch": training.steps_per_epoch,
        "nan_metrics": learner.nan_metrics,
    }


def _share_every(strategy: Strategy) -> int:
    """Steps after which worker 0's buffers become everybody's; 0: never."""
    if isinstance(strategy, LocalSGD):
        return strategy.every
    return int(isinstance(strategy, AllReduce))


def _raise(raised: BaseException | None, error: Error) -> NoReturn:
    """What the training raised, if that is the reason for the core's error."""
    if raised is None:
        raise error
    if isinstance(raised, Error):
        raise raised from error
    told = task.describe(raised)
    raise InvalidArgument(f"train: the training failed:\n{told}") from raised
