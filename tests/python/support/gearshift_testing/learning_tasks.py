"""Small trainings for the simulator, in float64; one function each."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

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
    return evaluate_with(model, model)


def evaluate_with(model: nn.Module, function: Callable[[Tensor], Tensor]) -> float:
    """The negative loss of what the function predicts; also writes the model."""
    if OUT in os.environ:
        torch.save(model.state_dict(), os.environ[OUT])
    x, y = batch(0, 9999, 1)
    return -float(((function(x) - y) ** 2).mean())


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


def in_float32() -> gst.SimulatedTraining:
    model = mlp().float()
    return gst.SimulatedTraining(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        lambda m, b: loss(m, (b[0].float(), b[1].float())),
        batch,
        lambda m: evaluate_with(m, lambda x: m(x.float()).double()),
    )


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


def adagrad() -> gst.SimulatedTraining:
    return made(mlp(), torch.optim.Adagrad, lr=0.1, initial_accumulator_value=0.1)


def one_cycle() -> gst.SimulatedTraining:
    """Also cycles the momentum."""
    training = sgd()
    training.scheduler = lr_scheduler.OneCycleLR(training.optimizer, 0.2, total_steps=30)
    return training


def in_steps() -> gst.SimulatedTraining:
    training = adam()
    training.scheduler = lr_scheduler.StepLR(training.optimizer, 7, gamma=0.5)
    return training


def in_epochs() -> gst.SimulatedTraining:
    """A warm-up by steps, and a decay by epochs."""
    training = sgd()
    training.scheduler = lr_scheduler.LinearLR(training.optimizer, 0.1, total_iters=6)
    training.epoch_scheduler = lr_scheduler.ExponentialLR(training.optimizer, 0.7)
    training.steps_per_epoch = 4
    return training


def grouped(
    rule: Callable[..., Optimizer], weights: dict[str, Any], biases: dict[str, Any]
) -> gst.SimulatedTraining:
    """Weights and biases, which take turns in the model, have numbers of their own."""
    model = mlp()
    parameters = list(model.parameters())
    groups = [{"params": parameters[0::2], **weights}, {"params": parameters[1::2], **biases}]
    return gst.SimulatedTraining(model, rule(groups, lr=0.02), loss, batch, evaluate)


def groups_sgd() -> gst.SimulatedTraining:
    return grouped(
        torch.optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
        {"lr": 0.1, "momentum": 0.5},
    )


def groups_adam() -> gst.SimulatedTraining:
    return grouped(torch.optim.Adam, {"weight_decay": 0.1}, {"lr": 0.005, "betas": (0.8, 0.99)})


def groups_adamw() -> gst.SimulatedTraining:
    """With a schedule for each."""
    training = grouped(torch.optim.AdamW, {"weight_decay": 0.5}, {"weight_decay": 0.0})
    training.scheduler = lr_scheduler.OneCycleLR(training.optimizer, [0.05, 0.01], total_steps=30)
    return training


class Uneven(nn.Module):
    """Of its layers one is never used, one by worker 1 only, and one in every other step only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.never, self.one, self.even = (nn.Linear(6, 6).double() for _ in range(3))

    def forward(self, x: Tensor, worker: int, step: int) -> Tensor:
        x = self.one(x) if worker == 1 else x
        return self.body(self.even(x) if step % 2 == 0 else x)


def uneven(rule: Callable[..., Optimizer], **numbers: float) -> gst.SimulatedTraining:
    def uneven_batch(worker: int, step: int, workers: int) -> Any:
        return *batch(worker, step, workers), worker, step

    def uneven_loss(model: nn.Module, batch: Any) -> Tensor:
        x, y, worker, step = batch
        return ((model(x, worker, step) - y) ** 2).mean()

    def uneven_metric(model: Any) -> float:
        return evaluate_with(model, lambda x: model.body(x))

    training = made(Uneven(), rule, **numbers)
    training.batch, training.loss, training.evaluate = uneven_batch, uneven_loss, uneven_metric
    return training


def uneven_sgd() -> gst.SimulatedTraining:
    return uneven(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1)


def uneven_adamw() -> gst.SimulatedTraining:
    return uneven(torch.optim.AdamW, lr=0.01, weight_decay=0.5)


class Lonely(nn.Module):
    """Worker 1 alone uses a number, whose gradient is the same wherever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.common = nn.Linear(6, 1).double()


def lonely() -> gst.SimulatedTraining:
    """With a schedule."""
    training = made(Lonely(), lr=0.02, momentum=0.5, weight_decay=0.1)
    training.batch = lambda worker, step, workers: (batch(worker, step, workers), worker)

    def lonely_loss(model: Any, batch: Any) -> Tensor:
        (x, y), worker = batch
        common = loss(model.common, (x, y))
        return common + model.own.sum() if worker == 1 else common

    training.loss = lonely_loss
    training.evaluate = lambda model: evaluate_with(model, lambda x: x)
    training.scheduler = lr_scheduler.StepLR(training.optimizer, 7, gamma=0.5)
    return training


def lonely_alone(steps: int) -> Tensor:
    """What becomes of worker 1's own number, whatever the others do."""
    training = lonely()
    own = training.model.get_parameter("own")
    assert training.scheduler is not None
    for _ in range(steps):
        own.grad = torch.ones_like(own)
        training.optimizer.step()
        training.scheduler.step()
    return own.detach()


def sparse() -> gst.SimulatedTraining:
    """An embedding whose gradients are sparse."""
    torch.manual_seed(7)
    table = nn.EmbeddingBag(10, 1, sparse=True, mode="sum").double()

    def words(worker: int, step: int, workers: int) -> Batch:
        generator = torch.Generator().manual_seed(1000 * step + worker)
        found = torch.randint(0, 10, (BATCH, 3), generator=generator)
        return found, found.double().mean(1, keepdim=True)

    training = made(table, lr=0.02)
    training.batch = words
    training.evaluate = lambda model: evaluate_with(model, lambda x: x)
    return training


def scheduler_of_another() -> gst.SimulatedTraining:
    training = sgd()
    training.scheduler = lr_scheduler.StepLR(adam().optimizer, 3)
    return training


def forgotten_scheduler() -> gst.SimulatedTraining:
    training = sgd()
    lr_scheduler.StepLR(training.optimizer, 3)
    return training


def plateau() -> gst.SimulatedTraining:
    training = sgd()
    training.scheduler = lr_scheduler.ReduceLROnPlateau(training.optimizer)
    return training


def no_epochs() -> gst.SimulatedTraining:
    training = in_epochs()
    training.steps_per_epoch = 0
    return training


def short_schedule() -> gst.SimulatedTraining:
    training = sgd()
    training.scheduler = lr_scheduler.OneCycleLR(training.optimizer, 0.2, total_steps=10)
    return training


def steps_by_itself() -> gst.SimulatedTraining:
    """Its loss changes the learning rate."""
    training = grouped(torch.optim.SGD, {}, {})

    def stepping(model: nn.Module, batch: Batch) -> Tensor:
        training.optimizer.param_groups[1]["lr"] = 0.5
        return loss(model, batch)

    training.loss = stepping
    return training


def begun() -> gst.SimulatedTraining:
    training = adam()
    loss(training.model, batch(0, 1, 1)).backward()
    training.optimizer.step()
    return training


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
