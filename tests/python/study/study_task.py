"""A task that learns within a second: a line through points, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gearshift.torch as gst

TITLE = "A line"
BATCH = 4
SAMPLES = 320
METRIC = "minus the loss on 64 points"
TARGET = -0.05
FORWARD, BACKWARD, OPTIMIZER = "2 ms", "3 ms", "100 us"
POINTS = 64


def training() -> gst.SimulatedTraining:
    """Two weights and a bias, learnt from noisy points."""
    chance = torch.Generator().manual_seed(3)
    x = torch.randn(POINTS, 2, generator=chance, dtype=torch.float64)
    y = x @ torch.tensor([[1.5], [-2.0]], dtype=torch.float64) + 0.5
    y += 0.05 * torch.randn(POINTS, 1, generator=chance, dtype=torch.float64)
    model = nn.Linear(2, 1).double()

    def batch(worker: int, step: int, workers: int) -> tuple[Tensor, Tensor]:
        first = ((step - 1) * workers + worker) * BATCH % POINTS
        return x[first : first + BATCH], y[first : first + BATCH]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> float:
        return -float(nn.functional.mse_loss(model(x), y))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return gst.SimulatedTraining(model, optimizer, loss, batch, evaluate)


def breaking() -> gst.SimulatedTraining:
    """Fails in its tenth step."""
    made = training()
    whole = made.batch

    def batch(worker: int, step: int, workers: int) -> tuple[Tensor, Tensor]:
        if step == 10:
            raise ValueError("the data are gone")
        return whole(worker, step, workers)

    made.batch = batch
    return made


def unmeasured() -> gst.SimulatedTraining:
    """Has no metric."""
    made = training()
    made.evaluate = None
    return made
