"""When this rank has no more batches in an epoch, so that the others need not wait for it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


class Epoch:
    """Follows a model through the epochs of a training sampler, and joins at their ends.

    An epoch is open from the start of the sampler's iteration while the model trains (or from the
    first training forward after it) until the join. It ends at the optimizer step with which the
    samples that this rank was given have all been seen. Where that cannot be told (a loop left
    early), it ends when the next one begins, or with the job.
    """

    def __init__(self, model: nn.Module, join: Callable[[], None], world_size: int) -> None:
        self.number = 0
        """Of the epoch, for the metrics."""
        self._model = weakref.ref(model)
        self._join = join
        self._alone = world_size == 1
        self._open = False
        self._explicit = False
        self._target: int | None = None
        self._consumed = 0
        self._sampler: weakref.ref[Any] | None = None
        self._candidate: tuple[Any, int | None, int] | None = None

    def sampler_starts(self, sampler: Any, target: int, number: int) -> None:
        """An iteration begins over a sampler that gives this rank `target` samples."""
        model = self._model()
        same = self._sampler is not None and self._sampler() is sampler
        if same or (model is not None and model.training):
            self.finish()
            self._begin(sampler, target, number)
            self.settle()  # a rank that gets no samples at all
        else:  # an evaluation, unless the model is going to train on it
            self._candidate = (weakref.ref(sampler), target, number)

    def note_forward(self, samples: int) -> None:
        """A training forward on so many new samples."""
        if not self._open and self._candidate is not None:
            reference, target, number = self._candidate
            self._begin(reference(), target, number)
        elif not self._open and self._sampler is not None:
            self._open, self._target = True, None  # more than was expected; ends with the next
        self._consumed += samples

    def settle(self) -> None:
        """Join if all samples have been seen: after a step, and before the user's collectives."""
        if self._target is not None and self._consumed >= self._target:
            self.finish()

    def finish(self) -> None:
        """Join, if an epoch is open. Collective in the sense of gst.join."""
        if not self._open or self._explicit:
            return
        self._open = False
        if not self._alone:
            self._join()

    @contextlib.contextmanager
    def explicit(self) -> Iterator[None]:
        """The user says where the epoch begins and ends."""
        self._explicit = True
        try:
            yield
            if not self._alone:
                self._join()
            if self._sampler is None:
                self.number += 1
        finally:
            self._explicit = self._open = False

    def _begin(self, sampler: Any, target: int | None, number: int) -> None:
        self._open, self._target, self._consumed = True, target, 0
        self._sampler = None if sampler is None else weakref.ref(sampler)
        self._candidate = None
        self.number = number
