"""Computes the gradients of simulated workers, all with one torch model."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidArgument
from ._memory import copy_gradient, distinct_buffers, tensor_on
from ._rules import Rule
from ._schedule import Schedule
from ._simulated import SimulatedTraining, dtype_name

Memory = np.ndarray[Any, Any]
Step = tuple[float, bytes, list[float]]
"""Loss, a flag for each parameter that says whether it has a gradient, the optimizer's numbers."""
T = TypeVar("T")


@dataclass
class _Worker:
    values: list[Tensor]
    """On the replica's memory, as are the gradients."""
    gradients: list[Tensor]
    buffers: list[Tensor]
    """Its own BatchNorm statistics and the like."""


class Learner:
    """What the core asks for parameters, gradients and the metric.

    Once a loss or a gradient is not finite, training has diverged: from then on all gradients are
    zero, so that the simulation goes on to its end without learning.
    """

    def __init__(
        self,
        training: SimulatedTraining,
        rule: Rule,
        *,
        workers: int,
        seed: int,
        share_every: int,
    ) -> None:
        """Made before the simulation.

        Args:
            rule: the optimizer's.
            workers: how many there are.
            seed: of the random numbers.
            share_every: after each so many steps all workers get worker 0's buffers: 1 as under
                All-Reduce, more under local SGD; 0: never.
        """
        self._training = training
        self._model = training.model
        self._parameters = [p for _, p in training.parameters()]
        self._buffers = [
            (m._buffers, name, tensor) for m, name, _, tensor in distinct_buffers(self._model)
        ]
        self._schedule = Schedule(
            training.optimizer,
            rule,
            training.scheduler,
            training.epoch_scheduler,
            training.steps_per_epoch,
        )
        self._count = workers
        self._seed = seed
        self._share_every = share_every
        self._workers: dict[int, _Worker] = {}
        self._shared: dict[int, list[Tensor]] = {}
        """Worker 0's buffers after a step that shares them; the latest two."""
        self.error: BaseException | None = None
        """What the training raised, if it did."""
        self.diverged: tuple[int, int, str] | None = None
        """Worker and step whose gradient was the first that is not finite, and what was not."""
        self.nan_metrics = 0
        """Evaluations that returned no number."""
        self.last_step: dict[int, int] = {}
        """The step of each worker's latest gradient."""

    # Called by the core.

    def check(self, workload: list[tuple[str, list[int], str]]) -> None:
        """Refuse a workload (name, shape and dtype of its parameters) of another model."""
        self._guarded(lambda: check_workload(self._training, workload))

    def begin(self, rank: int, parameters: list[Memory], gradients: list[Memory]) -> None:
        """The memory of one replica, to be filled with the model's parameters."""
        self._guarded(lambda: self._begin(rank, parameters, gradients))

    def gradient(self, rank: int, step: int) -> Step:
        """Writes a worker's gradient of its batch of a step (from 1)."""
        return self._guarded(lambda: self._gradient(rank, step))

    def evaluate(self) -> float:
        """The metric at worker 0's parameters; NaN without one."""
        return self._guarded(self._evaluate)

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BaseException as error:
            self.error = self.error or error
            raise

    # Implementation.

    def _begin(self, rank: int, parameters: list[Memory], gradients: list[Memory]) -> None:
        worker = _Worker(
            self._tensors_on(parameters),
            self._tensors_on(gradients),
            [tensor.detach().clone() for _, _, tensor in self._buffers],
        )
        for value, parameter in zip(worker.values, self._parameters, strict=True):
            value.copy_(parameter.detach())  # no worker has computed yet: they are the model's own
        self._workers[rank] = worker

    def _tensors_on(self, memories: list[Memory]) -> list[Tensor]:
        pairs = zip(memories, self._parameters, strict=True)
        return [tensor_on(memory, p.dtype, p.shape) for memory, p in pairs]

    def _gradient(self, rank: int, step: int) -> Step:
        worker = self._workers[rank]
        self.last_step[rank] = step
        numbers = self._schedule.numbers(step)
        if self.diverged is not None:
            return self._nothing(worker, numbers)
        if step - 1 in self._shared:
            worker.buffers = [t.clone() for t in self._shared[step - 1]]
        self._put_in(worker)
        self._seed_all(f"{rank} {step}")
        batch = self._training.batch(rank, step, self._count)
        loss, present = self._backward(worker, batch)
        self._schedule.check_unchanged(f"worker {rank}, step {step}")
        worker.buffers = self._take_buffers()
        if self._share_every > 0 and step % self._share_every == 0 and rank == 0:
            self._shared[step] = [t.clone() for t in worker.buffers]
            self._shared.pop(step - 2 * self._share_every, None)
        self.diverged = _divergence(worker, loss, present, rank, step)
        if self.diverged is not None:
            return self._nothing(worker, numbers)
        return loss, present, numbers

    def _backward(self, worker: _Worker, batch: Any) -> tuple[float, bytes]:
        with torch.enable_grad():
            loss = self._training.loss(self._model, batch)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                kind = f"{tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                raise InvalidArgument(f"loss() must return a tensor of one number, not {kind}")
            loss.backward()
        present = bytearray(len(self._parameters))
        for i, (p, memory) in enumerate(zip(self._parameters, worker.gradients, strict=True)):
            if p.grad is not None:
                present[i] = 1
                copy_gradient(p.grad, memory)
                p.grad = None
        return float(loss.item()), bytes(present)

    def _nothing(self, worker: _Worker, numbers: list[float]) -> Step:
        """What a worker that learns no longer says; its messages are those of any other step."""
        for gradient in worker.gradients:
            gradient.zero_()
        return math.nan, b"\1" * len(self._parameters), numbers

    def _evaluate(self) -> float:
        metric = math.nan
        if self.diverged is None and self._training.evaluate is not None:
            worker = self._workers[0]
            self._put_in(worker)
            metric = evaluate(self._training, self._seed)
            self.nan_metrics += math.isnan(metric)
        return metric

    def _put_in(self, worker: _Worker) -> None:
        """Make the model that of a worker; there are no gradients yet."""
        for parameter, value in zip(self._parameters, worker.values, strict=True):
            parameter.data = value
            parameter.grad = None
        for (_, _, tensor), own in zip(self._buffers, worker.buffers, strict=True):
            tensor.data = own

    def _take_buffers(self) -> list[Tensor]:
        """The buffers as the model left them, which may have replaced them by others."""
        taken = []
        for holder, name, tensor in self._buffers:
            current = holder.get(name)
            if current is None:
                raise InvalidArgument(f"the training removed the buffer '{name}'")
            if current is not tensor:
                tensor.data = current.detach()
                holder[name] = tensor
            taken.append(tensor.data)
        return taken

    def _seed_all(self, what: str) -> None:
        seed_all(self._seed, what)


def check_workload(training: SimulatedTraining, given: list[tuple[str, list[int], str]]) -> None:
    """Refuse a workload (name, shape and dtype of its parameters) of another model.

    Raises:
        InvalidArgument: with the first difference.
    """
    wanted = [(n, list(p.shape), dtype_name(p)) for n, p in training.parameters()]
    for i, (ours, theirs) in enumerate(zip(wanted, given, strict=False)):
        if ours != theirs:
            raise InvalidArgument(
                f"the workload is not that of the model: parameters[{i}] is {_shown(theirs)} "
                f"in the workload, {_shown(ours)} in the model"
            )
    if len(wanted) != len(given):
        which, first = (
            ("model", wanted[len(given)])
            if len(wanted) > len(given)
            else ("workload", given[len(wanted)])
        )
        raise InvalidArgument(
            f"the workload is not that of the model: it has {len(given)} parameters, the model "
            f"{len(wanted)} trainable ones; only the {which} has {_shown(first)}"
        )


def evaluate(training: SimulatedTraining, seed: int) -> float:
    """The metric of a training's model as it is; NaN without one."""
    if training.evaluate is None:
        return math.nan
    seed_all(seed, "evaluate")
    modes = [(module, module.training) for module in training.model.modules()]
    training.model.eval()
    with torch.no_grad():
        metric = float(training.evaluate(training.model))
    for module, mode in modes:
        module.training = mode
    return metric


def one_thread() -> None:
    """As many simulations run at once as there are cores."""
    torch.set_num_threads(1)


def seed_all(seed: int, what: str) -> None:
    """Seed torch, numpy and Python for one piece of work."""
    digest = hashlib.blake2b(f"{seed} {what}".encode(), digest_size=7).digest()
    number = int.from_bytes(digest, "big")
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def _divergence(
    worker: _Worker, loss: float, present: bytes, rank: int, step: int
) -> tuple[int, int, str] | None:
    """Worker, step and reason, when a loss or a gradient is not finite."""
    if not math.isfinite(loss):
        return rank, step, f"the loss is {loss}"
    gradients = (g for g, there in zip(worker.gradients, present, strict=True) if there)
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        return rank, step, "the gradient is not finite"
    return None


def _shown(parameter: tuple[str, list[int], str]) -> str:
    name, shape, dtype = parameter
    return f"'{name}' {dtype}{shape}"
