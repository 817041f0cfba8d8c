"""Local SGD beside what it should be: all ranks' models trained in one process."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import gearshift as gs
import gearshift.torch as gst

from .training import (
    OPTIMIZERS,
    MakeOptimizer,
    assert_equal_everywhere,
    cross_entropy,
    difference,
    make,
)

SMALL = 2**-10
Batch = tuple[Tensor, Tensor]


def batch_of(rank: int, step: int, size: int) -> Batch:
    """Samples that no other rank and step has."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (size,), generator=generator)


class Ranks:
    """All ranks' models in one process."""

    def __init__(self, start: nn.Module, optimizer: MakeOptimizer) -> None:
        self.models = [copy.deepcopy(start) for _ in range(gs.world_size())]
        self.optimizers = [optimizer(m.parameters()) for m in self.models]
        self._center = copy.deepcopy(start)
        self._samples = [0.0] * gs.world_size()

    def step(self, rank: int, *parts: Batch, clip: float | None = None) -> None:
        """On the sum of the parts' mean losses."""
        model, optimizer = self.models[rank], self.optimizers[rank]
        optimizer.zero_grad()
        for x, y in parts:
            cross_entropy(model, x, y).backward()
            self._samples[rank] += len(x)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()

    def average(self) -> nn.Module:
        """A round; returns what all have then."""
        total = sum(self._samples)
        with torch.no_grad():
            for i, center in enumerate(self._center.parameters()):
                own = [list(m.parameters())[i] for m in self.models]
                pairs = zip(own, self._samples, strict=True)
                center.copy_(sum(p * (s / total) for p, s in pairs if s))
                for p in own:
                    p.copy_(center)
        self._samples = [0.0] * gs.world_size()
        return self._center


def distributed(
    strategy: gs.strategy.Strategy | str, optimizer: str = "sgd"
) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = make("mlp")
    return gst.distribute(model, OPTIMIZERS[optimizer](model.parameters()), strategy)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    loss = cross_entropy(model, x, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step(loss=loss)  # type: ignore[call-arg]


def finish(model: nn.Module, expected: nn.Module, bound: float = 1e-12) -> None:
    """Compare with what is expected, after the steps since the last round were averaged."""
    gst.release(model)
    assert_equal_everywhere(model)
    assert difference(model, expected) <= bound
