"""Objects and memory that workers share."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import torch

from .. import _session
from .._arrays import view
from .._collectives import allocate, extents_of, rank_of


def broadcast_object(obj: Any, root: int = 0) -> Any:
    """Give every worker the object that `root` has. Collective.

    Args:
        obj: anything that can be pickled; ignored except on `root`.
        root: rank that it comes from.

    Returns:
        `obj` itself on `root`, a copy elsewhere.
    """
    _session.settled()
    return share_object(obj, rank_of("root", root))


def share_object(obj: Any, root: int) -> Any:
    """The same within a step or a join, where no epoch may end."""
    mine = _session.rank() == root
    data = np.frombuffer(pickle.dumps(obj), dtype=np.uint8).copy() if mine else None
    size = _shared(np.array([0 if data is None else data.size], dtype=np.int64), root)
    if data is None:
        data = np.empty(int(size[0]), dtype=np.uint8)
    _shared(data, root)
    return obj if mine else pickle.loads(data.tobytes())


def _shared(x: np.ndarray[Any, Any], root: int) -> np.ndarray[Any, Any]:
    array = view(x)
    _session.current().broadcast(array.address, array.nbytes, root)
    array.finish()
    return x


def zeros(*shape: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A new CPU tensor of zeros in memory that the workers of one host share. Collective.

    The shape is given as to :func:`torch.zeros`: ``zeros(2, 3)`` or ``zeros((2, 3))``.

    :func:`gearshift.all_reduce` works in it, and in contiguous parts of it, without a copy when
    every worker passes one from the same call. See :func:`gearshift.zeros`.
    """
    sizes = extents_of(shape[0] if len(shape) == 1 else shape)
    memory = allocate(math.prod(sizes) * dtype.itemsize)
    if memory.size == 0:  # torch takes no other view of it
        return torch.zeros(sizes, dtype=dtype, device="cpu")
    return torch.from_numpy(memory).view(dtype).reshape(sizes)
