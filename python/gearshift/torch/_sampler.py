"""Which samples of a dataset this worker trains on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence, Sized

import torch
from torch.utils.data import Sampler

from .. import _session
from ._deal import Deal, Reader, Training
from ._epoch import begin
from ._registry import everything


class DistributedSampler(Sampler[int]):
    """Deals the samples of a dataset out to the workers, each sample to exactly one of them.

    Worker r of N gets the samples r, r + N, r + 2N … of the order, so that N workers with batches
    of b see together what one process with batches of N·b would see. Sizes may differ by one:
    nothing is repeated to make them equal, and the epoch's end is handled by itself (see
    :func:`gearshift.torch.join`). The order with `shuffle` is
    ``torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed + epoch))``, where
    the epoch is that of :meth:`set_epoch`, or else how many epochs models have trained on before.

    Args:
        dataset: anything with a length.
        shuffle: a new order in each epoch; otherwise the dataset's own.
        seed: of the order; equal on all ranks.
        drop_last: leave out the last ``len(dataset) % N`` samples, so that all get equally many.
    """

    def __init__(
        self, dataset: Sized, shuffle: bool = True, seed: int = 0, drop_last: bool = False
    ) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self._epoch_set = False
        self._epochs = 0
        self._latest: Training | None = None
        self._rank = _session.rank()
        self._size = _session.world_size()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes: it decides the order, and is what metrics count in."""
        self.epoch = epoch
        self._epoch_set = True

    def __len__(self) -> int:
        """Samples of this worker in an epoch."""
        return len(self.dataset) // self._size if self.drop_last else self._share(self._rank)

    def __iter__(self) -> Iterator[int]:
        """Indices into the dataset. Marks the beginning of an epoch for models that train."""
        number = self.epoch if self._epoch_set else self._next_epoch()
        reader = Reader(self, sys._getframe(1))
        indices = iter(self._indices(number))
        target = reader.deliverable(len(self))
        deal = Deal(self, number, target, reader, indices, self._is_uneven(reader))
        self._latest = deal.training
        self._latest.begun = target == 0  # others may train meanwhile
        begin(deal, [distributed.epoch for distributed in everything()])
        return indices

    def _next_epoch(self) -> int:
        """Who looks at the data without training on them gets the same again.

        So the order is the same on all ranks, although only some may have looked.
        """
        if self._latest is not None and self._latest.begun:
            self._epochs += 1
        self._latest = None
        return self._epochs

    def _is_uneven(self, reader: Reader) -> bool:
        """Whether some ranks get more batches than others."""
        if self.drop_last:
            return False
        most, least = (self._share(rank) for rank in (0, self._size - 1))
        return reader.batches_of(most) != reader.batches_of(least) or (least == 0 and most > 0)

    def _share(self, rank: int) -> int:
        return (len(self.dataset) - rank + self._size - 1) // self._size

    def _indices(self, epoch: int) -> Sequence[int]:
        """Of this worker's samples, in order."""
        mine = slice(self._rank, None, self._size)
        if not self.shuffle:
            return range(len(self.dataset))[mine][: len(self)]
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(len(self.dataset), generator=generator, device="cpu")
        indices: list[int] = order[mine][: len(self)].tolist()  # not of all: 35 bytes for each
        return indices
