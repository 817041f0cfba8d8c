"""Training steps of one model on several ranks: ours, PyTorch's, or none's.

Set-up: side=gearshift|ddp|averager|local model=mlp|cnn|resnet18|transformer [strategy=…]
[compression=fp16] [backend=gloo|gearshift] (both of ddp) [rounded=1] (what travels is rounded:
parameters are that less like those of one process) [every=N] (what is timed are N steps in a row;
of averager also its period).
Order: steps=N (a multiple of `every`) [warmup=N] [check=N].

``seconds`` are single steps (zero_grad, forward, backward, optimizer.step); with `every`, means of
so many in a row, each of which has one round of local SGD in it wherever it begins. Before they are
measured, `check` steps are made, and rank 0 compares the parameters with those of one process that
trains on the batches of all ranks; under local SGD as many more as are left of a round, and that
process has a model for each rank. ``hidden_share`` is the part of our communication that went on
while backward computed; ``pss_bytes`` the mean memory of a rank, shared pages divided among the
processes that map them; ``unique_bytes`` the pages of its own.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

import torch
from memory import give_back, resident
from models import WORKLOADS, Workload
from sides import Local, Side, make_side
from torch import nn
from torch.optim import SGD, Optimizer

from gearshift.bench.gate import Gate, parse_order

TOLERANCE = 1e-3
"""Largest distance from one process's parameters, relative to how far these have moved."""
ROUNDED_TOLERANCE = 1e-2
"""The same where gradients travel rounded: bfloat16 has eight binary places."""


class Trainer:
    """A model on one side, step by step."""

    def __init__(self, side: Side, workload: Workload) -> None:
        self.side = side
        self.workload = workload
        self.plain = workload.make_model()
        self.optimizer = make_optimizer(self.plain, workload)
        self.model = side.wrap(self.plain, self.optimizer)
        self.steps = 0

    def step(self) -> float:
        """One step on a fresh batch; returns its seconds."""
        x, y = self.workload.make_batch(self.side.rank, self.steps)
        self.steps += 1
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        self.workload.loss(self.model(x), y).backward()
        self.optimizer.step()
        return time.perf_counter() - begin

    def distance(self) -> float:
        """From one process that made the same steps, relative to how far that has come."""
        reference = self._reference()
        start = self.workload.make_model()
        error = moved = 0.0
        for ours, theirs, first in zip(
            self.plain.parameters(), reference.parameters(), start.parameters(), strict=True
        ):
            error += float((ours.detach() - theirs.detach()).double().square().sum())
            moved += float((theirs.detach() - first.detach()).double().square().sum())
        return (error / moved) ** 0.5

    def _reference(self) -> nn.Module:
        if self.side.period > 1:
            return side_by_side(self.workload, self.side.size, self.steps, self.side.period)
        return one_process(self.workload, self.side.size, self.steps)

    def peak(self) -> dict[str, int]:
        """Memory with all gradients present, during one more step."""
        x, y = self.workload.make_batch(self.side.rank, self.steps)
        self.steps += 1
        self.optimizer.zero_grad()
        self.workload.loss(self.model(x), y).backward()
        gc.collect()
        self.side.barrier()
        memory = resident()
        self.side.barrier()
        self.optimizer.step()
        return memory


def make_optimizer(model: nn.Module, workload: Workload) -> Optimizer:
    """SGD with momentum, as in most of the literature on distributed training."""
    return SGD(model.parameters(), lr=workload.lr, momentum=0.9)


def one_process(workload: Workload, ranks: int, steps: int) -> nn.Module:
    """A model trained by this process alone on the batches of all ranks."""
    model = workload.make_model()
    optimizer = make_optimizer(model, workload)
    for step in range(steps):
        optimizer.zero_grad()
        for rank in range(ranks):
            x, y = workload.make_batch(rank, step)
            (workload.loss(model(x), y) / ranks).backward()
        optimizer.step()
    return model


def side_by_side(workload: Workload, ranks: int, steps: int, period: int) -> nn.Module:
    """Rank 0's model, where this process trains one for each rank, and averages them."""
    models = [workload.make_model() for _ in range(ranks)]
    optimizers = [make_optimizer(model, workload) for model in models]
    for step in range(steps):
        for rank, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            x, y = workload.make_batch(rank, step)
            optimizer.zero_grad()
            workload.loss(model(x), y).backward()
            optimizer.step()
        if (step + 1) % period == 0:
            average(models)
    return models[0]


def average(models: list[nn.Module]) -> None:
    """Give all of them the means of their parameters."""
    with torch.no_grad():
        for same in zip(*(model.parameters() for model in models), strict=True):
            mean = torch.stack(same).mean(0)
            for parameter in same:
                parameter.copy_(mean)


def check(trainer: Trainer, steps: int, tolerance: float) -> tuple[bool, float]:
    """Make the first steps, up to the end of a round; rank 0 compares the outcome."""
    while trainer.steps < steps or trainer.steps % trainer.side.period:
        trainer.step()
    distance = 0.0
    if trainer.side.rank == 0 and not isinstance(trainer.side, Local):
        distance = trainer.distance()
        give_back()  # the memory of the models that were compared is not this side's
    trainer.side.barrier()
    return distance <= tolerance, distance


def measure(trainer: Trainer, steps: int, warmup: int, every: int) -> dict[str, Any]:
    """Timed steps, means of `every` in a row, and what else is worth knowing about them."""
    if steps % every:
        raise ValueError(f"steps={steps} is not a multiple of every={every}")
    for _ in range(warmup):
        trainer.step()
    trainer.side.barrier()  # under local SGD no step may have brought the ranks together
    before = trainer.side.stats()
    blocks = range(steps // every)
    seconds = [sum(trainer.step() for _ in range(every)) / every for _ in blocks]
    after = trainer.side.stats()
    report: dict[str, Any] = {"seconds": seconds}
    grown = {name: after[name] - before[name] for name in after}
    report.update({name: value / steps for name, value in grown.items()})
    if grown.get("communication_seconds"):
        exposed = min(grown["exposed_seconds"], grown["communication_seconds"])
        report["hidden_share"] = 1 - exposed / grown["communication_seconds"]
    return report


def main() -> None:
    """Take orders until there are none."""
    torch.set_num_threads(1)
    options = parse_order(sys.argv[1:])
    side = make_side(options)
    trainer = Trainer(side, WORKLOADS[options.get("model", "mlp")])
    every = int(options.get("every", "1"))
    tolerance = ROUNDED_TOLERANCE if "rounded" in options else TOLERANCE
    verdict: tuple[bool, float] | None = None
    gate = Gate(side.rank)
    for order in gate:
        made = trainer.steps
        if verdict is None:
            verdict = check(trainer, int(order.get("check", "3")), tolerance)
        steps, warmup = int(order.get("steps", "20")), int(order.get("warmup", "3"))
        report = measure(trainer, steps, warmup, every)
        memory = trainer.peak()
        report.update({f"{name}_bytes": side.mean(value) for name, value in memory.items()})
        verified, distance = verdict
        gate.report(
            verified=verified,
            problem="" if verified else f"parameters are off by {distance:.1e} of their way",
            distance=distance,
            operations=trainer.steps - made,
            gradient_bytes=sum(p.numel() * p.element_size() for p in trainer.plain.parameters()),
            **report,
        )
    side.close()


if __name__ == "__main__":
    main()
