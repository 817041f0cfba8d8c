"""Which samples a worker learns from in a step."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


class Order:
    """Passes over a data set that workers share, each pass in another order.

    All steps take samples from one sequence, pass after pass: step by step, in each the workers in
    their order. So every pass has every sample once, whatever the number of workers, and a batch
    at the end of a pass goes on with the next one.
    """

    def __init__(self, count: int, batch: int) -> None:
        """For so many samples, and a batch of so many per worker and step."""
        self._count = count
        self._batch = batch
        self._pass = lru_cache(maxsize=4)(self._new_pass)  # asynchronous workers are in several

    def chosen(self, worker: int, step: int, workers: int) -> Tensor:
        """The numbers of the samples, shape (batch,); steps count from 1."""
        first = ((step - 1) * workers + worker) * self._batch
        found: list[Tensor] = []
        missing = self._batch
        while missing > 0:
            number, place = divmod(first + self._batch - missing, self._count)
            found.append(self._pass(number)[place : place + missing])
            missing -= len(found[-1])
        return found[0] if len(found) == 1 else torch.cat(found)

    def _new_pass(self, number: int) -> Tensor:
        return torch.randperm(self._count, generator=torch.Generator().manual_seed(number))
