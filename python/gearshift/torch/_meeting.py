"""Collectives within training steps, in which ranks that are out of batches take part with nothing.

Each begins with a *meeting*: every rank tells what it is in, so that a rank that has joined the end
of an epoch can follow the others, and ranks that call different things learn so.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import _session
from ..errors import MismatchError

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int8, torch.uint8, torch.int32, torch.int64),
    *(torch.bool, torch.int16, torch.complex64, torch.complex128),
)
REDUCED = DTYPES[:8]
_NUMBERS = {dtype: number for number, dtype in enumerate(DTYPES)}
_YEAR = 365 * 24 * 3600.0


class Kind(enum.IntEnum):
    """What a rank comes to do."""

    NOTHING = 0
    """It has no more batches."""
    SUM = 1
    GATHER = 2
    SCATTER = 3
    """Of rows that all have: each takes the sum of those that are its own."""


@dataclass(frozen=True)
class Meeting:
    """What all ranks have told."""

    kind: Kind
    """Of those that have batches; NOTHING where none has."""
    dtype: torch.dtype
    rows: tuple[int, ...]
    """Of each rank."""
    width: int
    """Elements in a row."""
    weights: tuple[float, ...]
    """Of each rank's loss in the mean over all samples."""
    active: int
    """Ranks that have batches."""

    @property
    def factor(self) -> float:
        """This rank's weight, as a part of the largest one."""
        most = max(self.weights)
        return self.weights[_session.rank()] / most if most > 0 else 1.0

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all ranks' `x`, in place: contiguous, in host memory."""
        if x.numel() > 0:
            dtype = str(x.dtype).removeprefix("torch.")
            _session.current().all_reduce(x.data_ptr(), x.nbytes, dtype, "sum")
        return x

    def gather(self, x: Tensor) -> Tensor:
        """All ranks' rows in the order of the ranks, of which `x` are this rank's."""
        most = max(self.rows)
        whole = x.new_empty((len(self.rows), most, self.width))
        if whole.numel() > 0:
            whole[_session.rank(), : x.shape[0]] = x
            _session.current().all_gather(whole.data_ptr(), whole.nbytes)
        if most * len(self.rows) == sum(self.rows):
            return whole.reshape(sum(self.rows), self.width)
        return torch.cat([part[:n] for part, n in zip(whole, self.rows, strict=True)])

    def scatter(self, x: Tensor) -> Tensor:
        """Of the sum of all ranks' `x`, rows of all of them, those that are this rank's.

        `x` is contiguous, in host memory, and of no use afterwards.
        """
        rank = _session.rank()
        if self.width == 0 or len(set(self.rows)) > 1:
            return self.sum(x)[sum(self.rows[:rank]) : sum(self.rows[: rank + 1])]
        out = x.new_empty((self.rows[rank], self.width))
        if out.numel() > 0:
            dtype = str(x.dtype).removeprefix("torch.")
            _session.current().reduce_scatter(
                x.data_ptr(), x.nbytes, out.data_ptr(), out.nbytes, dtype, "sum"
            )
        return out


def meet(
    kind: Kind, dtype: torch.dtype, rows: int, width: int, weight: float, label: str
) -> Meeting:
    """Collective: tell the others, and learn of them.

    Args:
        kind, dtype, rows, width, weight: as :class:`Meeting` has them, of this rank.
        label: what this rank is said to be in while it waits.

    Raises:
        MismatchError: when two ranks have come to do different things.
    """
    size = _session.world_size()
    every = np.zeros((size, 5))
    every[_session.rank()] = (kind, _NUMBERS[dtype], rows, width, weight)
    waits = _YEAR if kind is Kind.NOTHING else None
    _session.current().all_gather(every.ctypes.data, every.nbytes, waits, label)
    told = every.tolist()
    active = [r for r in range(size) if told[r][0] != Kind.NOTHING]
    if not active:
        return Meeting(kind, dtype, (0,) * size, 0, (0.0,) * size, 0)
    first = told[active[0]]
    for r in active[1:]:
        its = told[r]
        if its[0] != first[0] or its[1] != first[1] or its[3] != first[3]:
            raise MismatchError(
                f"rank {r} is in {_words(its)}, rank {active[0]} in {_words(first)}: "
                "all ranks must call the same functions in the same order"
            )
    return Meeting(
        Kind(int(first[0])),
        DTYPES[int(first[1])],
        tuple(int(its[2]) for its in told),
        int(first[3]),
        tuple(its[4] for its in told),
        len(active),
    )


def follow() -> None:
    """While this rank has no batches: take part in the others' until none has any."""
    while True:
        meeting = meet(
            *(Kind.NOTHING, torch.float64, 0, 0, 0.0),
            label="out of batches, following the others' steps",
        )
        if meeting.kind is Kind.NOTHING:
            return
        if meeting.kind is Kind.SUM:
            meeting.sum(_zeros(1, meeting))
        elif meeting.kind is Kind.GATHER:
            meeting.gather(_zeros(0, meeting))
        else:
            meeting.scatter(_zeros(sum(meeting.rows), meeting))


def _zeros(rows: int, meeting: Meeting) -> Tensor:
    return torch.zeros((rows, meeting.width), dtype=meeting.dtype, device="cpu")


def _words(told: list[float]) -> str:
    name = {
        Kind.SUM: "a sum over the ranks",
        Kind.GATHER: "a concatenation of the ranks' rows",
        Kind.SCATTER: "the backward of a concatenation of the ranks' rows",
    }[Kind(int(told[0]))]
    dtype = str(DTYPES[int(told[1])]).removeprefix("torch.")
    of = "of" if told[0] == Kind.SUM else "each of"
    return f"{name}, {of} {int(told[3])} elements of {dtype}"
