"""A training of two seconds that needs all that a measured cell has to do as the simulator does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gearshift.torch as gst

BATCH = 8


def _model() -> nn.Module:
    """With statistics that are no parameters, and random numbers in each step."""
    layers = (nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return nn.Sequential(*layers).double()


def training() -> gst.SimulatedTraining:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(256, 6, generator=generator, dtype=torch.float64)
    labels = points[:, :3].argmax(1)
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)

    def batch(worker: int, step: int, workers: int) -> tuple[Tensor, Tensor]:
        first = ((step - 1) * workers + worker) * BATCH % 256
        return points[first : first + BATCH], labels[first : first + BATCH]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> float:
        return -float(cross_entropy(model(points), labels))

    return gst.SimulatedTraining(model, optimizer, loss, batch, evaluate, scheduler=schedule)


def runaway() -> gst.SimulatedTraining:
    """Its loss is no number in step 4 of worker 1."""
    return _in_step_4(lambda loss: loss * float("nan"))


def broken() -> gst.SimulatedTraining:
    """Raises in step 4 of worker 1."""

    def fail(loss: Tensor) -> Tensor:
        raise ValueError("no such label")

    return _in_step_4(fail)


def _in_step_4(change: Callable[[Tensor], Tensor]) -> gst.SimulatedTraining:
    made = training()
    batch, loss, now = made.batch, made.loss, [(0, 0)]

    def noted(worker: int, step: int, workers: int) -> tuple[Tensor, Tensor]:
        now[0] = worker, step
        return batch(worker, step, workers)

    def changed(model: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
        found = loss(model, given)
        return change(found) if now[0] == (1, 4) else found

    made.batch, made.loss = noted, changed
    return made
