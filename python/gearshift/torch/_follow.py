"""After a join: what counts steps by itself goes where the rank that made most of them is."""

from __future__ import annotations

import gc
import pickle
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .. import _session
from ._objects import broadcast_object


def follow(optimizer: Optimizer, root: int, *, with_state: bool) -> None:
    """Take over `root`'s optimizer, and its schedulers and gradient scalers. Collective.

    A rank that ran out of batches has stepped its learning-rate schedulers less often than the
    others, and would go on at other rates than they.

    Args:
        optimizer: of this rank.
        root: the rank that made most steps.
        with_state: take over the optimizer's state, too; else only the numbers of its param groups.
    """
    counters = _counters(optimizer)
    mine: Any = None
    if _session.rank() == root:
        state = optimizer.state_dict() if with_state else None
        mine = (state, _numbers(optimizer), {key: _portable(c) for key, c in counters.items()})
    state, numbers, counted = broadcast_object(mine, root)
    if _session.rank() == root:
        return
    if state is not None:
        optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, numbers, strict=True):
        _set(group, values)
    for key, counter in counters.items():
        if counted.get(key):
            counter.load_state_dict(counted[key])


def back_off(optimizer: Optimizer) -> None:
    """Tell the gradient scaler that is about to end a step of the optimizer that it overflowed.

    It did so on another rank, and nobody's gradient was applied: in one process, and under
    All-Reduce, every rank's scaler would have seen it.
    """
    for scaler in _scalers(gc.get_objects()):
        state = scaler._per_optimizer_states.get(id(optimizer), {})
        for found in state.get("found_inf_per_device", {}).values():
            found.fill_(1)


def _scalers(objects: list[Any]) -> list[torch.amp.GradScaler]:
    return [o for o in objects if issubclass(type(o), torch.amp.GradScaler) and o.is_enabled()]


def _counters(optimizer: Optimizer) -> dict[tuple[str, str, int], Any]:
    """The schedulers of an optimizer and all gradient scalers, under names equal on all ranks.

    Neither an optimizer nor PyTorch knows them, but the garbage collector does.
    """
    objects = gc.get_objects()
    schedulers = [
        o
        for o in objects
        if issubclass(type(o), LRScheduler) and getattr(o, "optimizer", None) is optimizer
    ]
    # Those within another one (SequentialLR, ChainedScheduler) are part of its state.
    within = {id(inner) for s in schedulers for inner in getattr(s, "_schedulers", ())}
    found: dict[tuple[str, str, int], Any] = {}
    for thing in [*(s for s in schedulers if id(s) not in within), *_scalers(objects)]:
        key = (type(thing).__qualname__, repr(getattr(thing, "base_lrs", None)), 0)
        while key in found:
            key = (*key[:2], key[2] + 1)
        found[key] = thing
    return found


def _portable(counter: Any) -> dict[str, Any]:
    """The part of a state that can travel."""
    result = {}
    for name, value in counter.state_dict().items():
        try:
            pickle.dumps(value)
        except Exception:
            continue
        result[name] = value
    return result


def _numbers(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def _set(group: dict[str, Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        current = group.get(name)
        if isinstance(current, Tensor):
            current.fill_(float(value))
        else:
            group[name] = value
