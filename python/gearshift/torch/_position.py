"""Where in an epoch training is, and what is left of the epoch then."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _session
from .._collectives import all_gather
from ..errors import InvalidArgument, MismatchError


def share(samples: int, rank: int, workers: int) -> int:
    """How many of so many samples are rank, rank + workers, rank + 2 · workers …"""
    return (samples - rank + workers - 1) // workers


@dataclasses.dataclass(frozen=True)
class Position:
    """A place in an epoch, as all ranks of a job have it."""

    epoch: int
    trained: tuple[tuple[int, ...], ...] = ()
    """For each job that had a part in the epoch, of what those before had left: on how many samples
    each of its workers has trained, of those that it was dealt."""

    def after(self, counts: Sequence[int]) -> Position:
        """When each worker has trained on so many more samples."""
        if not any(counts):
            return self
        before, last = self.trained, tuple(counts)
        # Where all had as many, the next ones were dealt as if there had been no interruption.
        if before and len(before[-1]) == len(last) and len(set(before[-1])) == 1:
            before, last = before[:-1], tuple(before[-1][0] + count for count in last)
        return Position(self.epoch, (*before, last))

    def left(self, samples: int) -> int:
        """How many are left of an epoch of so many samples."""
        return samples - sum(map(sum, self.trained))

    def rest(self, order: Tensor | range) -> Tensor | range:
        """Those that are left, in their order."""
        for counts in self.trained:
            workers = len(counts)
            if len(set(counts)) == 1:
                order = order[workers * counts[0] :]
                continue
            places = torch.arange(len(order), device="cpu")
            done = torch.tensor(counts, device="cpu")
            if isinstance(order, range):
                order = torch.arange(order.start, order.stop, device="cpu")
            order = order[places // workers >= done[places % workers]]
        return order

    def state(self, order: dict[str, Any]) -> dict[str, Any]:
        """As it is saved, with what decides the order."""
        return {"epoch": self.epoch, "trained": [list(counts) for counts in self.trained], **order}


def load(state: dict[str, Any], order: dict[str, Any]) -> Position:
    """Collective: the position that was saved, which all ranks must load.

    Args:
        state: what Position.state() made.
        order: what decides the order here.

    Raises:
        InvalidArgument: for something else, or when it is of another order.
        MismatchError: when ranks load different ones.
    """
    position, problem = None, ""
    try:
        position = _read(state, order)
    except InvalidArgument as error:
        problem = str(error)
    text = problem or json.dumps(position.state(order) if position else None)
    digest = hashlib.sha256(text.encode()).digest()[:8]
    found = all_gather(np.frombuffer(digest, dtype=np.int64).copy())[:, 0]
    if problem:
        raise InvalidArgument(problem)
    others = [rank for rank, other in enumerate(found) if other != found[0]]
    if position is None or others:
        raise MismatchError(
            f"rank {others[0]} has not loaded the same state of the sampler as rank 0: on rank "
            f"{_session.rank()} it is {text}. Every rank must load the same state, such as what "
            "rank 0 has saved"
        )
    return position


def _read(state: dict[str, Any], order: dict[str, Any]) -> Position:
    try:
        position = Position(
            int(state["epoch"]), tuple(tuple(map(int, counts)) for counts in state["trained"])
        )
        of = {name: state[name] for name in order}
        if () in position.trained:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument("this is no state of a gst.DistributedSampler") from error
    for name, value in order.items():
        if of[name] != value:
            raise InvalidArgument(
                f"the state is of a sampler with {name}={of[name]}, this one has {name}={value}: "
                "they deal samples out in different orders"
            )
    left = order["samples"]
    for counts in position.trained:
        workers = len(counts)
        if any(not 0 <= n <= share(left, rank, workers) for rank, n in enumerate(counts)):
            raise InvalidArgument(f"the state has {list(counts)} samples trained on, of {left}")
        left -= sum(counts)
    return position
