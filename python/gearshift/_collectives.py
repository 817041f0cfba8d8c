"""Collectives on the user's own arrays.

Every worker calls the same function with arrays of equal shape and dtype, in the same order. Arrays
are NumPy arrays or CPU tensors of torch, of any layout. What is reduced is of dtype float64,
float32, float16, bfloat16, int8, uint8, int32 or int64; what only moves may be of any other, too
(bool, complex64 …), but for objects. Calls block, without the GIL, until the result is there;
Ctrl-C interrupts them. Threads may call at the same time, when all ranks do so in the same order;
what is sent to, or received from, different workers waits for nothing else.

All of them raise:
    TypeError: for something that is no such array.
    InvalidArgument: for sizes or ranks that do not fit.
    MismatchError: on one host, when workers call different ones of all_reduce, reduce_scatter and
        all_gather, or with other dtypes or operations.
    PeerLost, TimeoutError: when another rank is gone, or does not take part. The session is
        unusable afterwards.
"""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from . import _session
from ._arrays import DTYPES, Array, view
from .errors import InvalidArgument

Op = Literal["sum", "mean", "min", "max", "product"]
T = TypeVar("T")


def all_reduce(x: T, op: Op = "sum") -> T:
    """Combine `x` over all workers, in place; every worker gets the same bits.

    Args:
        x: array of any shape.
        op: "sum", "mean" (of integers: truncated towards zero), "min", "max" or "product".

    Returns:
        `x` itself.

    Workers of one host reduce through shared memory, without a copy if `x` comes from
    :func:`zeros`. There float16 and bfloat16 are combined in float32 and rounded once; between
    hosts after each combination, so that a float16 sum beyond 65504 is infinite, and so is its
    mean.
    """
    session = _session.settled()
    if session.all_reduce_buffer(x, op):
        return x
    array = view(x, reduced=True)
    session.all_reduce(array.address, array.nbytes, array.dtype, op)
    array.finish()
    return x


def zeros(shape: int | Sequence[int], dtype: Any = "float32") -> np.ndarray[Any, Any]:
    """A new array of zeros in memory that the workers of one host share.

    All workers call it alike. :func:`all_reduce` works in such arrays, and in contiguous parts of
    them, without a copy when every worker passes one from the same call; other arrays of more than
    a few kilobytes pass through a buffer. The array is an ordinary NumPy array otherwise, and is
    ordinary memory where workers run on several hosts. For tensors: :func:`gearshift.torch.zeros`.

    Args:
        shape: of the array.
        dtype: one of NumPy's that travel: float64, float32, float16, int8, uint8, int32, int64.

    Raises:
        TypeError: for a dtype that does not travel.
        Error: when there is not enough memory.
    """
    kind = np.dtype(dtype)
    if kind.name not in DTYPES:
        raise TypeError(f"elements of type {kind} do not travel; {', '.join(DTYPES)} do")
    extents = extents_of(shape)
    memory = allocate(math.prod(extents) * kind.itemsize)
    return memory.view(kind).reshape(extents)


def extents_of(shape: Any) -> tuple[int, ...]:
    """A shape, which may be one number, as Python's integers."""
    try:
        extents: tuple[int, ...] = (operator.index(shape),)
    except TypeError:
        extents = tuple(operator.index(extent) for extent in shape)
    if any(extent < 0 for extent in extents):
        raise InvalidArgument(f"an array of shape {extents} is impossible")
    return extents


def allocate(nbytes: int) -> np.ndarray[Any, Any]:
    """Bytes of the kind that :func:`zeros` describes."""
    if not 0 <= nbytes <= sys.maxsize:
        raise InvalidArgument(f"an array of {nbytes} bytes is impossible")
    return np.asarray(_session.settled().allocate(nbytes))


def broadcast(x: T, root: int = 0) -> T:
    """Give every worker the contents that `x` has on `root`, in place. Returns `x`."""
    session = _session.settled()
    root = rank_of("root", root)
    array = view(x)
    session.broadcast(array.address, array.nbytes, root)
    array.finish()
    return x


def all_gather(x: Any, out: Any = None) -> Any:
    """Collect every worker's `x`.

    Args:
        x: array of any shape, the same on all workers.
        out: array of shape ``(world_size, *x.shape)`` and `x`'s dtype to write to; new when None.

    Returns:
        `out`; ``out[r]`` is the `x` of worker r.
    """
    session = _session.settled()
    source = view(x, writable=False)
    shape = (session.world_size, *source.shape)
    if out is None:
        out, target = source.empty(shape)
    else:
        target = view(out)
        if target.shape != shape or target.dtype != source.dtype:
            raise InvalidArgument(
                f"all_gather: out is {target.dtype}{target.shape}, needed is {source.dtype}{shape}"
            )
    _copy(source, target.address + session.rank * source.nbytes)
    session.all_gather(target.address, target.nbytes)
    target.finish()
    return out


def reduce_scatter(x: Any, op: Op = "sum") -> Any:
    """Combine `x` over all workers and give each a part of the result.

    Args:
        x: array; left as it is.
        op: as for :func:`all_reduce`.

    Returns:
        A new array, part r of the result on worker r. When the leading dimension d divides by the
        number of workers N: of shape ``(d / N, *x.shape[1:])``. Otherwise the elements in
        row-major order are cut into N parts, of which the first ``x.size % N`` have one element
        more, and the part is one-dimensional.
    """
    session = _session.settled()
    source = view(x, writable=False, reduced=True)
    scratch = source.copy()
    out, target = source.empty(_part_shape(source.shape, session.rank, session.world_size))
    session.reduce_scatter(
        scratch.address, scratch.nbytes, target.address, target.nbytes, source.dtype, op
    )
    return out


def all_to_all(x: Any) -> Any:
    """Exchange blocks: block j of worker i becomes block i of worker j.

    Args:
        x: array whose leading dimension divides by the number of workers; left as it is.

    Returns:
        A new array of the same shape.
    """
    session = _session.settled()
    source = view(x, writable=False)
    if not source.shape or source.shape[0] % session.world_size != 0:
        raise InvalidArgument(
            f"all_to_all: the leading dimension of shape {source.shape} does not divide by "
            f"{session.world_size} workers"
        )
    out, target = source.empty(source.shape)
    session.all_to_all(source.address, target.address, source.nbytes)
    return out


def barrier() -> None:
    """Wait until all workers are here."""
    _session.settled().barrier()


def send(x: Any, to: int) -> None:
    """Send `x` to worker `to`, which calls :func:`recv`; messages keep their order."""
    session = _session.settled()
    to = _peer("to", to)
    array = view(x, writable=False)
    session.send(array.address, array.nbytes, to)


def recv(x: T, source: int) -> T:
    """Receive into `x` what worker `source` sends: as many bytes. Returns `x`."""
    session = _session.settled()
    source = _peer("source", source)
    array = view(x)
    session.recv(array.address, array.nbytes, source)
    array.finish()
    return x


def _part_shape(shape: tuple[int, ...], rank: int, size: int) -> tuple[int, ...]:
    if shape and shape[0] % size == 0:
        return (shape[0] // size, *shape[1:])
    count = 1
    for extent in shape:
        count *= extent
    return (count // size + (1 if rank < count % size else 0),)


def _copy(source: Array, address: int) -> None:
    import ctypes

    ctypes.memmove(address, source.address, source.nbytes)


def rank_of(name: str, value: Any) -> int:
    """A rank that the caller gave, as an int: NumPy's integers are ranks, too."""
    size = _session.world_size()
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            if 0 <= (number := operator.index(value)) < size:
                return number
    raise InvalidArgument(f"{name}={value!r} is no rank of {size} workers")


def _peer(name: str, value: Any) -> int:
    number = rank_of(name, value)
    if number == _session.rank():
        raise InvalidArgument(f"{name}={value} is this rank itself")
    return number
