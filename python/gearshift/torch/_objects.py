"""Python objects between workers."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from .. import _session
from .._collectives import broadcast


def broadcast_object(obj: Any, root: int = 0) -> Any:
    """Give every worker the object that `root` has. Collective.

    Args:
        obj: anything that can be pickled; ignored except on `root`.
        root: rank that it comes from.

    Returns:
        `obj` itself on `root`, a copy elsewhere.
    """
    mine = _session.rank() == root
    data = np.frombuffer(pickle.dumps(obj), dtype=np.uint8).copy() if mine else None
    size = broadcast(np.array([0 if data is None else data.size], dtype=np.int64), root)
    if data is None:
        data = np.empty(int(size[0]), dtype=np.uint8)
    broadcast(data, root)
    return obj if mine else pickle.loads(data.tobytes())
