"""One worker of a real job whose computation keeps the pace of a workload: what a study measures.

The gradients are real, and come from ``gst.distribute`` as anybody's do. Each is held back until
the workload says that it is ready, so that several workers on a machine are as fast as one alone on
a host of the cluster; how late they were is recorded.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import gearshift as gs

from .. import _session
from ..errors import Diverged, Error, InvalidArgument, PeerLost, TimeoutError
from ..sim import given
from ..sim import task as tasks
from ..study.work import Work
from . import _control, _learner, _registry, _simulated
from ._distribute import distribute
from ._memory import distinct_buffers
from ._simulated import SimulatedTraining

_TRIAL_SECONDS = 1.5
_TRIAL_STEPS = 12
"""At least; the first two do not count."""
_SET_TIMER_SLACK = 29


@dataclass
class Record:
    """What a worker has seen; times are those of the machine's monotonic clock."""

    begin: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """By step: seconds that real computation took longer than the workload says."""
    stats: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """Of worker 0: step, mean loss since the point before, metric."""
    steps_per_epoch: int = 0
    diverged: tuple[int, str] | None = None
    """Step in which the training ran away, and how."""
    failure: str | None = None
    """Why it ended early, otherwise."""
    own_failure: bool = False
    """The reason lies in this process, and not in another one."""


def load(work: Work) -> SimulatedTraining:
    """The training of a job, checked as the simulator does.

    Raises:
        InvalidArgument: for a task that is wrong, or another model than the workload's.
        Unsupported: for an optimizer that the simulator does not know.
    """
    _learner.one_thread()
    _learner.seed_all(work.seed, "training")
    training = tasks.make(work.task)
    if not isinstance(training, SimulatedTraining):
        kind = given.kind(training)
        raise InvalidArgument(f"{work.task} returned {kind}, no SimulatedTraining")
    _simulated.check_training(training)
    _learner.check_workload(training, [(n, list(s), d) for n, s, d in work.parameters])
    return training


def trial(work: Work) -> float:
    """Seconds that a step really takes, of one process by itself."""
    training = load(work)
    seconds: list[float] = []
    deadline = time.monotonic() + _TRIAL_SECONDS
    while len(seconds) < _TRIAL_STEPS or time.monotonic() < deadline:
        begin, step = time.monotonic(), len(seconds) % work.steps + 1
        loss = _loss(training, work, 0, step)
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
        seconds.append(time.monotonic() - begin)
    return median(seconds[2:])


def run(work: Work, rank: int) -> Record:
    """A worker's part of the job that the environment names. Collective.

    What goes wrong is in the record, so that every worker tells what it has seen until then.
    """
    ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1)  # wake up in time; threads inherit it
    record = Record()
    worker: _Worker | None = None
    try:
        training = load(work)
        _warm_up(training, work, rank)
        gs.init()
        worker = _Worker(training, work, rank, record)
        worker.train()
        gs.shutdown()  # when the slowest is done
    except Diverged as error:
        record.diverged = record.diverged or (len(record.begin), str(error))
        _session.fail(str(error))
    except Exception as error:
        record.failure = str(error) if isinstance(error, Error) else tasks.describe(error)
        record.own_failure = not isinstance(error, PeerLost | TimeoutError)
        _session.fail(record.failure)
    if worker is not None:
        worker.evaluate()
    return record


def _warm_up(training: SimulatedTraining, work: Work, rank: int) -> None:
    """Compute the first gradient, so that no step of the job is the first one of its process.

    The model and its buffers are then as they were.
    """
    buffers = [
        (module._buffers, name, tensor, tensor.clone())
        for module, name, _, tensor in distinct_buffers(training.model)
    ]
    _loss(training, work, rank, 1).backward()
    training.optimizer.zero_grad()
    with torch.no_grad():
        for holder, name, tensor, value in buffers:
            holder[name] = tensor
            tensor.copy_(value)


def _loss(training: SimulatedTraining, work: Work, rank: int, step: int) -> Tensor:
    _learner.seed_all(work.seed, f"{rank} {step}")
    batch = training.batch(rank, step, work.workers)
    loss = training.loss(training.model, batch)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise InvalidArgument(f"loss() must return a tensor of one number, not {loss!r:.60}")
    return loss


class _Worker:
    """Trains, and remembers what to evaluate."""

    def __init__(self, training: SimulatedTraining, work: Work, rank: int, record: Record) -> None:
        self._training = training
        self._work = work
        self._rank = rank
        self._record = record
        record.steps_per_epoch = training.steps_per_epoch
        self._model: nn.Module = training.model
        self._pace = _Pace(work, rank)
        for index, (_, parameter) in enumerate(training.parameters()):
            parameter.register_post_accumulate_grad_hook(self._pace.holder(index))
        distribute(self._model, training.optimizer, work.strategy, work.steps)
        self._distributed = _registry.get(self._model)
        training.optimizer.register_step_pre_hook(self._before_update)
        training.optimizer.register_step_post_hook(self._after_update)
        self._snapshots: list[tuple[int, float, list[Tensor]]] = []
        self._losses: list[float] = []
        self._sent = 0

    def train(self) -> None:
        """All steps, begun by all workers together."""
        gs.barrier()
        self._sent = self._distributed.stats()["bytes_sent"]
        try:
            for step in range(1, self._work.steps + 1):
                self._follow_schedules(step - 1)
                self._step(step)
        finally:
            stats = self._distributed.stats()
            self._record.stats = stats | {"bytes_sent": stats["bytes_sent"] - self._sent}

    def evaluate(self) -> None:
        """The learning curve, when the job is over and no clock runs any more."""
        targets = self._state()
        for step, loss, values in self._snapshots:
            with torch.no_grad():
                for target, value in zip(targets, values, strict=True):
                    target.copy_(value)
            metric = _learner.evaluate(self._training, self._work.seed)
            self._record.curve.append((step, loss, metric))

    def _step(self, step: int) -> None:
        record, optimizer = self._record, self._training.optimizer
        self._pace.begin(step)
        record.begin.append(self._pace.begun)
        loss = _loss(self._training, self._work, self._rank, step)
        number = float(loss.item())
        if not math.isfinite(number):
            record.diverged = step, f"the loss is {number}"
            raise Diverged(f"worker {self._rank}, step {step}: the loss is {number}")
        self._losses.append(number)
        _control.samples(self._work.batch_size)
        self._pace.hold_forward()
        optimizer.zero_grad()
        loss.backward()
        record.computed.append(self._pace.computed)
        optimizer.step(loss=number, epoch=self._epoch(step))  # type: ignore[call-overload]
        record.end.append(time.monotonic())
        record.late.append(self._pace.late)
        if self._rank == 0 and self._is_due(step):
            values = [tensor.clone() for tensor in self._state()]
            self._snapshots.append((step, sum(self._losses) / len(self._losses), values))
            self._losses.clear()

    def _is_due(self, step: int) -> bool:
        every = self._work.evaluate_every
        return every > 0 and (step % every == 0 or step == self._work.steps)

    def _state(self) -> list[Tensor]:
        parameters = [p.detach() for _, p in self._training.parameters()]
        return parameters + [tensor for _, _, _, tensor in distinct_buffers(self._model)]

    def _epoch(self, step: int) -> int:
        every = self._training.steps_per_epoch
        return (step - 1) // every if every > 0 else 0

    def _follow_schedules(self, done: int) -> None:
        """As simulated workers do: not after the last step."""
        training = self._training
        if done > 0 and training.scheduler is not None:
            training.scheduler.step()
        every = training.steps_per_epoch
        if done > 0 and training.epoch_scheduler is not None and done % every == 0:
            training.epoch_scheduler.step()

    def _before_update(self, *_: Any) -> None:
        self._pace.begin_update(own=not self._distributed.uses_server)

    def _after_update(self, *_: Any) -> None:
        self._pace.hold_update()


class _Pace:
    """Sleeps until the workload says that something is done, after it really is."""

    def __init__(self, work: Work, rank: int) -> None:
        self._work = work
        self._factors = work.factors[rank]
        self._scale = 1.0
        self._update: float | None = None
        self.begun = self.computed = 0.0
        self.late = 0.0
        """Seconds by which this step's computation is."""

    def begin(self, step: int) -> None:
        """A step, counted from 1."""
        self._scale = self._factors[step - 1] * self._work.dilation
        self.begun = self.computed = time.monotonic()
        self.late = 0.0

    def hold_forward(self) -> None:
        """Until forward is over."""
        self._hold(self.begun + self._work.forward * self._scale, judge=False)

    def holder(self, index: int) -> Callable[[Tensor], None]:
        """A hook that holds the gradient of a parameter back until it is ready."""
        ready, is_last = self._work.ready[index], self._work.ready[index] >= self._work.backward

        def hold(_: Tensor) -> None:
            due = self.begun + (self._work.forward + ready) * self._scale
            self._hold(due, judge=is_last)
            self.computed = time.monotonic()

        return hold

    def begin_update(self, own: bool) -> None:
        """The worker's own update of the parameters, or that of servers, which take their time."""
        self._update = time.monotonic() if own else None

    def hold_update(self) -> None:
        """Until the worker's own update is done."""
        if self._update is not None:
            self._hold(self._update + self._work.optimizer * self._scale, judge=True)

    def _hold(self, until: float, judge: bool) -> None:
        left = until - time.monotonic()
        if left > 0:
            time.sleep(left)
        elif judge:
            self.late += -left
