"""Samplers that give ranks different numbers of batches, and the same for one process."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import gearshift as gs
import gearshift.torch as gst

Batch = tuple[Tensor, Tensor]
SIZE = 4
"""Of a batch."""


def data(size: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(0, 3, (size,), generator=generator))


def uneven() -> TensorDataset:
    """Rank 0 has three batches, the last of one sample, and each other rank has two."""
    return data(2 * SIZE * gs.world_size() + 1)


def batches(dataset: TensorDataset) -> Iterator[Batch]:
    """For one process: in each step the batches of all ranks that have one left, as one batch."""
    n = gs.world_size()
    x, y = dataset.tensors
    per_rank = [list(zip(x[r::n].split(SIZE), y[r::n].split(SIZE), strict=True)) for r in range(n)]
    for k in range(max(len(own) for own in per_rank)):
        parts = [own[k] for own in per_rank if k < len(own)]
        yield torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])


def loader_of(dataset: TensorDataset, workers: int = 0) -> DataLoader[Batch]:
    sampler = gst.DistributedSampler(dataset, shuffle=False)
    return DataLoader(dataset, batch_size=SIZE, sampler=sampler, num_workers=workers)
