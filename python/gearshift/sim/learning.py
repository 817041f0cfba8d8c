"""A simulation that learns, within its process; the only part of the simulator that needs torch."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

from ..errors import Error, InvalidArgument, Unsupported
from ..strategy import AllReduce
from . import task
from .messages import Request
from .replay import Replay

Simulate = Callable[..., dict[str, Any]]
"""The core's simulation, which lacks only the arguments of learning."""


def learn(request: Request, workers: int, simulate: Simulate) -> dict[str, Any]:
    """The core's result, with ``diverged``: None, or worker, step and reason.

    When the core gave up a training whose loss ran away, there is no result but ``diverged`` and
    ``points`` (step, loss and metric), with a ``replay`` for the times.

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
        kind = type(training).__name__
        raise InvalidArgument(f"train: {request.train} returned a {kind}, no SimulatedTraining")
    rule = _simulated.check_training(training)
    groups = training.optimizer.param_groups
    learner = _learner.Learner(
        training,
        lambda: tomllib.loads(request.workload_text)["parameters"],
        workers=workers,
        seed=request.seed,
        one_for_all=isinstance(request.strategy, AllReduce),
    )
    try:
        result = simulate(
            optimizer=rule.kind,
            hyper_names=rule.names,
            hypers=rule.values(groups),
            learner=learner,
            evaluate_every=request.evaluate_every,
            steps_per_epoch=training.steps_per_epoch,
        )
    except Error as error:
        numbers = tuple(zip(rule.names, rule.values(groups), strict=True))
        replay = Replay(rule.kind, numbers, training.steps_per_epoch, learner.losses_before_last())
        return _after(error, learner) | {"replay": replay}
    return result | {"diverged": learner.diverged}


def repeat(request: Request, replay: Replay, simulate: Simulate) -> dict[str, Any]:
    """The core's result of a training that diverged, as if it had gone on."""
    return simulate(
        optimizer=replay.optimizer,
        hyper_names=[name for name, _ in replay.numbers],
        hypers=[value for _, value in replay.numbers],
        learner=replay,
        evaluate_every=request.evaluate_every,
        steps_per_epoch=replay.steps_per_epoch,
    )


def _after(error: Error, learner: Any) -> dict[str, Any]:
    """What an error of the core means."""
    raised = learner.error
    if isinstance(raised, Error):
        raise raised from error
    if raised is not None:
        told = task.describe(raised)
        raise InvalidArgument(f"train: the training failed:\n{told}") from raised
    if error.code != "diverged":
        raise error
    worker = error.rank if error.rank is not None else 0
    step = learner.last_step.get(worker, 1)
    return {"diverged": (worker, step, str(error)), "points": learner.points}
