"""A training for the simulator: what ``gearshift simulate --train`` learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import InvalidArgument, Unsupported
from ..sim import given
from ..sim.inputs import seconds
from ..sim.workload import DTYPES, Workload, WorkloadParameter
from ..sim.workload_file import spread_ready
from ._rules import NATIVE, Rule, group_numbers, rule_of
from ._schedule import check_schedulers


@dataclass
class SimulatedTraining:
    """A model, and how it is trained, for workers that are all simulated in one process.

    A task file has a function that makes one, called ``training`` unless another name is given::

        def training() -> gst.SimulatedTraining:
            model = make_model()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            return gst.SimulatedTraining(model, optimizer, loss, batch, evaluate)

    The simulator calls `batch` and `loss` for one worker at a time, with the worker's parameters in
    the model, in the order that virtual time dictates. Before each call the random numbers of
    torch, numpy and Python are seeded with the simulation's seed, the worker and the step, so that
    drop-out and the like do not depend on that order.
    """

    model: nn.Module
    """On the CPU, in the mode (``train()`` or ``eval()``) in which it is trained."""
    optimizer: Optimizer
    """SGD, Adam, AdamW or Adagrad of ``torch.optim`` over all trainable parameters, in one param
    group or several, without state yet. Its numbers are those at the begin, or the schedulers'."""
    loss: Callable[[Any, Any], Tensor]
    """The mean loss of a batch: ``loss(model, batch)``; zero_grad and backward are the simulator's.
    A parameter that it does not use has no gradient, as in any training."""
    batch: Callable[[int, int, int], Any]
    """``batch(worker, step, workers)``: what that worker, of so many, learns from in its step
    (counted from 1); should depend on nothing else. Its size is the workload's."""
    evaluate: Callable[[Any], float] | None = None
    """How good the model is, the greater the better: ``evaluate(model)``, called in eval mode and
    without gradients. None: the learning curve has losses only."""
    steps_per_epoch: int = 0
    """Of a worker, for `epoch_scheduler` and switches that look at epochs (``LossPlateau``);
    0: all are one epoch."""
    scheduler: LRScheduler | None = None
    """Of ``torch.optim.lr_scheduler``, over the optimizer: its ``step()`` comes after each step.
    Each worker is where its own steps have brought it, so asynchronous ones differ."""
    epoch_scheduler: LRScheduler | None = None
    """The same after each epoch of a worker; both may be given."""

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and trainable parameters, in the model's order."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def param_groups(self) -> list[int]:
        """The index of the optimizer's param group for each of :meth:`parameters`."""
        numbers = group_numbers(self.optimizer)
        return [numbers[id(p)] for _, p in self.parameters()]

    def workload(
        self,
        forward: float | str,
        backward: float | str,
        optimizer: float | str = 0.0,
        batch_size: int = 1,
        name: str | None = None,
    ) -> Workload:
        """The workload of this model; gradients get ready from the last parameter to the first.

        Args:
            forward: time in seconds or as text ("95 ms"), like the two that follow.
            backward: time of the backward pass.
            optimizer: time of a worker's own update of the whole model.
            batch_size: samples per worker and step.
            name: for reports; the model's class otherwise.

        Raises:
            InvalidArgument: for what cannot be simulated.
        """
        found = self.parameters()
        for label, parameter in found:
            check_parameter(label, parameter)
        entries = tuple(
            WorkloadParameter(label, tuple(p.shape), dtype_name(p)) for label, p in found
        )
        title = type(self.model).__name__ if name is None else given.text("name", name)
        workload = Workload(
            title,
            batch_size,
            _seconds("forward", forward),
            _seconds("backward", backward),
            _seconds("optimizer", optimizer),
            entries,
        )
        workload.validate()
        return spread_ready(workload, [False] * len(entries))


def _seconds(name: str, value: Any) -> float:
    """A time, as a number or as text."""
    if not isinstance(value, str):
        return given.number(name, value)
    try:
        return seconds(value)
    except ValueError as error:
        raise InvalidArgument(f"{name}: {error}") from error


def check_training(training: SimulatedTraining) -> Rule:
    """Refuse what the simulator cannot train; returns the optimizer's rule.

    Raises:
        InvalidArgument: for parts of the wrong type, and parameters that cannot be.
        Unsupported: for an optimizer that the core does not have, and schedulers that need more
            than to be told of a step.
    """
    _check_types(training)
    rule = _rule(training.optimizer)
    found = training.parameters()
    if not found:
        raise InvalidArgument("the model has no parameter that requires a gradient")
    for name, parameter in found:
        check_parameter(name, parameter)
    _check_owned(found, training.optimizer)
    check_schedulers(
        training.optimizer,
        training.scheduler,
        training.epoch_scheduler,
        training.steps_per_epoch,
    )
    return rule


def check_parameter(name: str, p: nn.Parameter) -> None:
    """Refuse a parameter that cannot live in the core's memory.

    Raises:
        InvalidArgument: naming it.
    """
    if nn.parameter.is_lazy(p):
        raise InvalidArgument(f"parameter '{name}' is lazy: run a forward in the task's function")
    if (
        p.layout is not torch.strided
        or not p.dtype.is_floating_point
        or dtype_name(p) not in DTYPES
    ):
        raise InvalidArgument(
            f"parameter '{name}' is {p.layout} {p.dtype}: only dense floating-point ones do"
        )
    if p.device.type != "cpu":
        raise InvalidArgument(f"parameter '{name}' is on {p.device}: simulations learn on the CPU")
    if not p.is_contiguous():
        raise InvalidArgument(
            f"parameter '{name}' is not contiguous (strides {p.stride()} for shape "
            f"{tuple(p.shape)}): make it so with p.data = p.data.contiguous()"
        )


def dtype_name(p: Tensor) -> str:
    """The workload's name of an element type."""
    return str(p.dtype).removeprefix("torch.")


def _check_types(training: SimulatedTraining) -> None:
    for what, kind in (("model", nn.Module), ("optimizer", Optimizer)):
        value = getattr(training, what)
        if not isinstance(value, kind):
            raise InvalidArgument(
                f"SimulatedTraining: {what} is {given.kind(value)}, no {kind.__name__}"
            )
    for what in ("loss", "batch", "evaluate"):
        value = getattr(training, what)
        if not callable(value) and not (what == "evaluate" and value is None):
            raise InvalidArgument(f"SimulatedTraining: {what} {value!r} cannot be called")
    given.whole("SimulatedTraining: steps_per_epoch", training.steps_per_epoch)
    if training.steps_per_epoch < 0:
        raise InvalidArgument(
            f"SimulatedTraining: steps_per_epoch={training.steps_per_epoch} must not be negative"
        )


def _rule(optimizer: Optimizer) -> Rule:
    if type(optimizer) not in NATIVE:
        known = ", ".join(cls.__name__ for cls in NATIVE)
        raise Unsupported(
            f"{type(optimizer).__name__} cannot be simulated; these optimizers of torch.optim can: "
            f"{known}"
        )
    # Adagrad has state from its construction on, which the core makes by itself.
    if any(float(state.get("step", 1)) != 0 for state in optimizer.state.values()):
        raise Unsupported("the optimizer has state already: simulations learn from the beginning")
    return rule_of(optimizer, elementwise=False)


def _check_owned(found: list[tuple[str, nn.Parameter]], optimizer: Optimizer) -> None:
    held = {id(p) for g in optimizer.param_groups for p in g["params"] if p.requires_grad}
    for name, p in found:
        if id(p) not in held:
            raise InvalidArgument(
                f"the optimizer does not have parameter '{name}': give it to the optimizer or "
                "freeze it with requires_grad_(False)"
            )
    if len(held) > len(found):
        raise InvalidArgument(
            f"the optimizer has {len(held) - len(found)} trainable parameters that are not the "
            "model's: put all that it trains into one nn.Module"
        )
