"""What local SGD's outer optimizer remembers, as a part of the optimizer's checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .._core import Replica
from ..errors import InvalidArgument
from ._memory import Trainable, bytes_of, tensor_on

KEY = "gearshift_outer_momentum"
"""In ``optimizer.state_dict()``: per name of a parameter its outer momentum, equal on all ranks. A
program without gearshift ignores it."""
_KEPT = "_gearshift_outer"
_CORE = "momentum_buffer"
_log = logging.getLogger("gearshift")
Momentum = dict[str, Tensor]


def keep_loaded(optimizer: Optimizer) -> None:
    """Have the optimizer keep what it is given before it is distributed, which it would drop."""
    optimizer.register_load_state_dict_pre_hook(_keep_part)


def _keep_part(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    keep(optimizer, state_dict.get(KEY))


def keep(optimizer: Optimizer, momentum: Momentum | None) -> None:
    """Let the optimizer have it until it is distributed."""
    optimizer.__dict__[_KEPT] = momentum or {}


def kept(optimizer: Optimizer) -> Momentum:
    """What the optimizer has kept."""
    found: Momentum = optimizer.__dict__.get(_KEPT, {})
    return found


def fetch(replica: Replica, trainables: Sequence[Trainable]) -> Momentum:
    """As of the last round; nothing where there is none."""
    if not replica.has_outer_optimizer:
        return {}
    entries = replica.fetch_outer_state()
    return {
        t.name: tensor_on(tensors[_CORE], t.parameter.dtype, t.parameter.shape)
        for t, (tensors, _) in zip(trainables, entries, strict=True)
        if tensors
    }


def store(replica: Replica, trainables: Sequence[Trainable], momentum: Momentum | None) -> None:
    """Go on from it; from zeros where there is none. On all ranks alike.

    Raises:
        InvalidArgument: when it has another shape than a parameter of that name.
    """
    if not replica.has_outer_optimizer:
        return
    given = momentum or {}
    for t in trainables:
        if t.name in given and given[t.name].shape != t.parameter.shape:
            raise InvalidArgument(
                f"the outer momentum of '{t.name}' in the optimizer's checkpoint has shape "
                f"{tuple(given[t.name].shape)}, the parameter {tuple(t.parameter.shape)}"
            )
    if given and not any(t.name in given for t in trainables):
        _log.warning(
            "the outer momentum in the optimizer's checkpoint is that of parameters with other "
            "names ('%s', ...), and is not used: was another module distributed?",
            next(iter(given)),
        )
    entries: list[tuple[dict[str, Any], dict[str, float]]] = [({}, {}) for _ in trainables]
    for t, (tensors, _) in zip(trainables, entries, strict=True):
        if t.name in given:
            value = given[t.name].detach().to(device="cpu", dtype=t.parameter.dtype)
            tensors[_CORE] = bytes_of(value)
    replica.store_outer_state(entries)
