"""Small trainings for the simulator, in float64; one function each."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import gearshift.torch as gst

BATCH = 4
OUT = "GEARSHIFT_TEST_OUT"
"""Variable with the file that evaluations write the model to."""

Batch = tuple[Tensor, Tensor]


def batch(worker: int, step: int, workers: int) -> Batch:
    """Targets that a small network can learn."""
    generator = torch.Generator().manual_seed(1000 * step + worker)
    x = torch.randn(BATCH, 6, generator=generator, dtype=torch.float64)
    return x, torch.sin(x[:, :1]) + 0.5 * x[:, 1:2]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def evaluate(model: nn.Module) -> float:
    """The negative loss of a fixed batch; also writes the model."""
    assert not model.training
    assert not torch.is_grad_enabled()
    if OUT in os.environ:
        torch.save(model.state_dict(), os.environ[OUT])
    return -float(loss(model, batch(0, 9999, 1)))


def mlp(*between: nn.Module) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Linear(6, 16), *between, nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)
    ).double()


def made(
    model: nn.Module, rule: Callable[..., Optimizer] = torch.optim.SGD, **numbers: float
) -> gst.SimulatedTraining:
    numbers = numbers or {"lr": 0.05, "momentum": 0.9}
    parameters = [p for p in model.parameters() if p.requires_grad]
    return gst.SimulatedTraining(model, rule(parameters, **numbers), loss, batch, evaluate)


def sgd() -> gst.SimulatedTraining:
    return made(mlp())


def adam() -> gst.SimulatedTraining:
    return made(mlp(), torch.optim.Adam, lr=0.01)


def dropout() -> gst.SimulatedTraining:
    return made(mlp(nn.Dropout(0.3)))


def batch_norm() -> gst.SimulatedTraining:
    return made(mlp(nn.BatchNorm1d(16)))


class Partial(nn.Module):
    """The first layer is frozen, one head is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.body[0].requires_grad_(False)  # type: ignore[index]
        self.unused = nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def partial() -> gst.SimulatedTraining:
    return made(Partial())


class Remembers(nn.Module):
    """Its output depends on the mean of the batch before, and it replaces the buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        self.register_buffer("last", torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        result = x[:, :1] * self.weight * self.last
        if self.training:
            self.last = x.mean().detach().reshape(1)
        return result


def remembers() -> gst.SimulatedTraining:
    return made(Remembers(), lr=0.1)


def no_metric() -> gst.SimulatedTraining:
    training = sgd()
    training.evaluate = None
    return training


def explodes() -> gst.SimulatedTraining:
    """Numbers overflow after a while."""
    return made(mlp(), lr=50.0)


def explodes_in_epochs() -> gst.SimulatedTraining:
    """The same, with epochs of three steps."""
    training = explodes()
    training.steps_per_epoch = 3
    return training


def not_a_number() -> gst.SimulatedTraining:
    """Worker 1's loss of step 4 is none."""
    training = sgd()

    def broken(worker: int, step: int, workers: int) -> Batch:
        x, y = batch(worker, step, workers)
        return (x * float("nan"), y) if (worker, step) == (1, 4) else (x, y)

    training.batch = broken
    return training


def steep() -> gst.SimulatedTraining:
    """A quadratic bowl, at a rate that fresh gradients bear and stale ones do not."""
    model = nn.Linear(6, 1, bias=False).double()
    nn.init.ones_(model.weight)
    training = made(model, lr=0.5, momentum=0.5)
    training.loss = lambda model, batch: 0.5 * (model.weight**2).sum()
    training.evaluate = lambda model: -float(model.weight.norm())
    return training


def two_groups() -> gst.SimulatedTraining:
    model = mlp()
    groups = [{"params": [p]} for p in model.parameters()]
    return gst.SimulatedTraining(model, torch.optim.SGD(groups, lr=0.1), loss, batch)


def unknown_rule() -> gst.SimulatedTraining:
    return made(mlp(), torch.optim.RMSprop, lr=0.1)


def transposed() -> gst.SimulatedTraining:
    model = mlp()
    model[0].weight.data = torch.zeros(6, 16, dtype=torch.float64).t()  # type: ignore[index,union-attr]
    return made(model)


def forgets_one() -> gst.SimulatedTraining:
    model = mlp()
    rest = list(model.parameters())[1:]
    return gst.SimulatedTraining(model, torch.optim.SGD(rest, lr=0.1), loss, batch)


def raises() -> gst.SimulatedTraining:
    training = sgd()

    def wrong(model: nn.Module, batch: Batch) -> Tensor:
        raise ValueError("this loss is not ready")

    training.loss = wrong
    return training


def no_number() -> gst.SimulatedTraining:
    training = sgd()
    training.loss = lambda model, batch: model(batch[0])
    return training


def nothing() -> int:
    return 3
