"""Training steps of one model on several ranks: ours, DistributedDataParallel's, or none's.

Set-up: side=gearshift|ddp|local model=mlp|cnn|resnet18|transformer [strategy=…] [compression=fp16]
(of ddp) [rounded=1] (what travels is rounded: parameters are that less like those of one process).
Order: steps=N [warmup=N] [check=N].

``seconds`` are single steps (zero_grad, forward, backward, optimizer.step). Before they are
measured, `check` steps are made, and rank 0 compares the parameters with those of one process that
trains on the batches of all ranks. ``hidden_share`` is the part of our communication that went on
while backward computed; ``pss_bytes`` the mean memory of a rank, shared pages divided among the
processes that map them; ``unique_bytes`` the pages of its own.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

import torch
from memory import resident
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
        reference = one_process(self.workload, self.side.size, self.steps)
        start = self.workload.make_model()
        error = moved = 0.0
        for ours, theirs, first in zip(
            self.plain.parameters(), reference.parameters(), start.parameters(), strict=True
        ):
            error += float((ours.detach() - theirs.detach()).double().square().sum())
            moved += float((theirs.detach() - first.detach()).double().square().sum())
        return (error / moved) ** 0.5

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


def check(trainer: Trainer, steps: int, tolerance: float) -> tuple[bool, float]:
    """Make the first steps; rank 0 compares the outcome."""
    while trainer.steps < steps:
        trainer.step()
    distance = 0.0
    if trainer.side.rank == 0 and not isinstance(trainer.side, Local):
        distance = trainer.distance()
    trainer.side.barrier()
    return distance <= tolerance, distance


def measure(trainer: Trainer, steps: int, warmup: int) -> dict[str, Any]:
    """Timed steps, and what else is worth knowing about them."""
    for _ in range(warmup):
        trainer.step()
    before = trainer.side.stats()
    seconds = [trainer.step() for _ in range(steps)]
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
    tolerance = ROUNDED_TOLERANCE if "rounded" in options else TOLERANCE
    verdict: tuple[bool, float] | None = None
    gate = Gate(side.rank)
    for order in gate:
        made = trainer.steps
        if verdict is None:
            verdict = check(trainer, int(order.get("check", "3")), tolerance)
        report = measure(trainer, int(order.get("steps", "20")), int(order.get("warmup", "3")))
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
