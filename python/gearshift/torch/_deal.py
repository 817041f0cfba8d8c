"""How far a training loop has come in the samples that a sampler gives it."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch.utils.data import BatchSampler, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

if TYPE_CHECKING:
    from ._epoch import Epoch

_DEPTH = 8
"""Calls between a DataLoader's iterator and the sampler; four, in fact."""


class Reader:
    """Who iterates over a sampler, which is not told; found on the stack.

    A DataLoader's iterator knows how many batches it has handed to the loop: one with worker
    processes draws indices long before.
    """

    def __init__(self, sampler: Any, caller: FrameType) -> None:
        first = caller.f_locals.get("self")
        frame: FrameType | None = caller
        loader = None
        for _ in range(_DEPTH):
            if frame is None or loader is not None:
                break
            found = frame.f_locals.get("self")
            loader = found if isinstance(found, _BaseDataLoaderIter) else None
            frame = frame.f_back
        self._loader = None if loader is None else weakref.ref(loader)
        self._batches = 0
        self.drop_last = False
        self.batch_size: int | None = None
        """None where batches are made in a way that is not known."""
        if isinstance(first, BatchSampler) and first.sampler is sampler:
            self.batch_size, self.drop_last = first.batch_size, first.drop_last
        elif loader is not None and first is loader:
            self.batch_size = 1
        self.in_order = bool(getattr(loader, "_in_order", True))
        """Whether batches arrive in the order in which they were dealt."""
        known = type(first) is BatchSampler or not isinstance(first, Sampler)
        self.batch_sampler = "" if known else type(first).__name__
        """A class that may make batches in another order than the sampler's, if one does."""

    def batches_of(self, samples: int) -> int | None:
        """How many batches so many samples make."""
        if self.batch_size is None:
            return None
        return (samples + (0 if self.drop_last else self.batch_size - 1)) // self.batch_size

    def deliverable(self, samples: int) -> int:
        """How many of the samples arrive: a loader with drop_last leaves a rest."""
        if self.batch_size is None or not self.drop_last:
            return samples
        return samples // self.batch_size * self.batch_size

    def batches(self) -> int | None:
        """Batches that the loop has got; None where that is not known."""
        if self._loader is None or self.batch_size is None:
            return None
        loader = self._loader()
        if loader is not None:
            self._batches = loader._num_yielded
        return self._batches

    @property
    def is_over(self) -> bool:
        """Whether the loop is known to have been left."""
        return self._loader is not None and self._loader() is None

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy nobody reads."""
        return self.__dict__ | {"_loader": None}


class Training:
    """How far models have come in training on what was dealt."""

    def __init__(self, reader: Reader | None) -> None:
        self.opened = False
        """Whether some model is expected to train on it, or has begun to."""
        self.begun = False
        """Whether some model has had a backward on it."""
        self.own = 0
        """Samples of this rank on which steps were made that the parameters have seen."""
        self.of_others = 0
        """The same of each other rank, as far as is known: not less, if it was dealt so many."""
        self.alike = True
        """Whether no rank is known to have batches of another size."""
        self.all_given = False
        """Whether the loop has got all samples, and no batch before it was trained on others."""
        self.ended = False
        """Whether all ranks have come to the end."""
        self.reader = reader

    @property
    def is_over(self) -> bool:
        """Whether the loop is known to have been left."""
        return self.reader is not None and self.reader.is_over


class Deal:
    """One iteration over a sampler, and the models that train on it."""

    def __init__(
        self,
        sampler: Any,
        number: int,
        target: int | None,
        reader: Reader | None = None,
        indices: Iterator[int] | None = None,
        uneven: bool = False,
    ) -> None:
        self.sampler = weakref.ref(sampler)
        self.data = id(getattr(sampler, "dataset", sampler))
        """What dataset it is of. (One that took the place of another is taken for it.)"""
        self.number = number
        """Of the epoch, for the metrics."""
        self.target = target
        """Samples that this rank gets; None if that is not known."""
        self.uneven = uneven
        """Whether some ranks get more batches than others."""
        self.training = Training(reader)
        self.epochs: list[Epoch] = []
        """Of the models that train on it, in the order in which they were distributed."""
        self.in_step = True
        """Whether the loop trains on what it gets before it gets more: nothing fetches ahead."""
        self._reader = reader
        self._indices = indices
        self._dealt = 0 if indices is None else operator.length_hint(indices)
        self._batches = 0
        self._samples = 0
        self._rest: Deal | None = None

    @property
    def trained(self) -> bool:
        """Some model has had a backward since the beginning."""
        return self.training.begun

    @property
    def samples(self) -> int:
        """Samples that the loop had got at the latest forward."""
        return self._samples

    @property
    def delivered(self) -> int:
        """Samples that the loop has got."""
        return self._delivered()[1]

    def note_forward(self, samples: int) -> None:
        """A forward of some model on so many samples.

        A loop gets at most one batch between two forwards. One that gets more fetches ahead, or
        skips some: then nothing is known from what was delivered.
        """
        batches, delivered = self._delivered()
        if batches is None:
            ahead = delivered - self._samples > samples
        else:
            ahead = batches - self._batches > 1
            self._batches = batches
        self._samples = delivered
        self.in_step = self.in_step and not ahead
        if self.target is not None:
            self.training.all_given = self.in_step and delivered >= self.target

    def rest(self) -> Deal:
        """For training that goes on when all samples have been seen."""
        if self._rest is None:
            self._rest = Deal(self.sampler() or self, self.number, None)
            self._rest.data = self.data
        return self._rest

    def _delivered(self) -> tuple[int | None, int]:
        """Batches, if they are known, and samples."""
        reader = self._reader
        batches = None if reader is None else reader.batches()
        if reader is None or batches is None:
            return None, self._dealt - operator.length_hint(self._indices or ())
        return batches, min(batches * (reader.batch_size or 1), self.target or 0)
