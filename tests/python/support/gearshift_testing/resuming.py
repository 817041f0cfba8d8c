"""Training loops that are left within an epoch, and gone on with."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

import gearshift as gs
import gearshift.torch as gst

from .epochs import SIZE, data
from .training import cross_entropy, make


def shuffled(size: int, epoch: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed + epoch)
    return torch.randperm(size, generator=generator).tolist()


def state_of(size: int, epoch: int, trained: list[list[int]], **order: Any) -> dict[str, Any]:
    order = order or {"shuffle": True, "seed": 0}
    return {"epoch": epoch, "trained": trained, "samples": size, **order}


class Job:
    """A training loop that can be left, and gone on with."""

    def __init__(
        self,
        strategy: str = "all_reduce",
        size: int = 0,
        workers: int = 0,
        accumulate: int = 1,
        sets_epoch: bool = True,
        shuffle: bool = True,
    ) -> None:
        n = gs.world_size()
        self.accumulate, self.sets_epoch = accumulate, sets_epoch
        self.size = size or 5 * SIZE * n + max(1, n - 1)
        dataset = data(self.size)
        self.sampler = gst.DistributedSampler(dataset, shuffle)
        self.loader = DataLoader(dataset, SIZE, sampler=self.sampler, num_workers=workers)
        self.model = make("mlp")
        momentum = 0.0 if strategy.startswith("local") else 0.9
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=momentum)
        self.model, self.optimizer = gst.distribute(self.model, self.optimizer, strategy)
        self.seen: list[torch.Tensor] = []

    def save(self) -> dict[str, Any]:
        whole = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sampler": json.loads(json.dumps(self.sampler.state_dict())),
        }
        return copy.deepcopy(whole)

    def load(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.sampler.load_state_dict(saved["sampler"])

    def steps(self, epochs: int) -> Iterator[int]:
        """The loop, a step at a time: how many there have been in its epoch."""
        for epoch in range(self.sampler.epoch, epochs):
            if self.sets_epoch:
                self.sampler.set_epoch(epoch)
            yield from self.epoch()

    def epoch(self) -> Iterator[int]:
        batches, step = [], 0
        for x, y in self.loader:
            batches.append((x, y))
            self.seen.append(x)
            if len(batches) < self.accumulate:
                with gst.no_sync(self.model):
                    cross_entropy(self.model, x, y).backward()
                continue
            cross_entropy(self.model, x, y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            batches.clear()
            yield (step := step + 1)

    def run(self, epochs: int, until: int = -1) -> None:
        """Until the model has made so many steps."""
        for _ in self.steps(epochs):
            if gst.stats(self.model)["step"] == until:
                return


def trained(job: Job) -> tuple[int, list[list[int]]]:
    state = job.sampler.state_dict()
    return state["epoch"], state["trained"]


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("gearshift").addHandler(handler)
    try:
        yield texts
    finally:
        logging.getLogger("gearshift").removeHandler(handler)
