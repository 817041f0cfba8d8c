"""When a training that the core gave up, because it diverged, did what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Memory = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Replay:
    """A training once more, without gradients, for its times: the core gives none with an error.

    Losses are those of the training, so that switches that wait for the loss happen where they
    did; as the core's :class:`Learner` it can do without torch.
    """

    optimizer: str
    numbers: tuple[tuple[str, float], ...]
    """Names and values of the optimizer's numbers, which travel with gradients."""
    steps_per_epoch: int
    losses: Mapping[tuple[int, int], float]
    """By worker and step; without those that were on their way when training was given up."""

    def begin(self, rank: int, parameters: list[Memory], gradients: list[Memory]) -> None:
        """Values do not matter."""
        for memory in (*parameters, *gradients):
            memory.fill(0)

    def gradient(self, rank: int, step: int) -> float:
        """The loss that it was; NaN, which nothing looks at, after the divergence."""
        return self.losses.get((rank, step), math.nan)

    def evaluate(self) -> float:
        """Was seen in the training."""
        return math.nan
