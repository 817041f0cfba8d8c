"""After a join: what counts steps by itself goes where the rank that made most of them is."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Container, Sequence
from typing import Any

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from .. import _session
from ._made import made, of_kind
from ._objects import share_object
from ._scales import enabled, pack, unpack
from ._state import load_as_sent


def follow(
    optimizer: Optimizer | None,
    parameters: Sequence[Tensor],
    root: int,
    *,
    with_state: bool,
    with_others: bool = True,
) -> None:
    """Take over `root`'s optimizers, their schedulers, gradient scalers, and averages. Collective.

    A rank that ran out of batches has stepped its learning-rate schedulers less often than the
    others, and would go on at other rates than they; an average of the model (EMA, SWA) has seen
    fewer of its steps.

    Args:
        optimizer: that was distributed, if one was.
        parameters: of the model.
        root: the rank that made most steps.
        with_state: take over optimizers' state; else only the numbers of their param groups.
        with_others: also of whatever else trains these parameters.
    """
    things = made(*_KINDS)
    if _has_namesakes(things, optimizer, parameters, with_others):
        things = []
        gc.collect()  # what is dead has a name still where the collector did not run
        things = made(*_KINDS)
    followers = _followers(things, optimizer, parameters, with_others)
    averages = _averages(things, parameters)
    mine = None
    if _session.rank() == root:
        mine = {key: _packed(things, o, with_state) for key, o in followers.items()}
        mine |= {key: a.state_dict() for key, a in averages.items()}
    theirs = share_object(mine, root)
    if _session.rank() == root:
        return
    for key, follower in followers.items():
        if key in theirs:
            _unpack(things, follower, theirs[key])
    for key, average in averages.items():
        if key in theirs:
            average.load_state_dict(theirs[key])


_Key = tuple[Any, ...]
_OWN: _Key = ()
_Things = Sequence[Any]
"""Of these kinds."""
_KINDS = (Optimizer, LRScheduler, GradScaler, AveragedModel)


def _followers(
    things: _Things, optimizer: Optimizer | None, parameters: Sequence[Tensor], with_others: bool
) -> dict[_Key, Optimizer]:
    own: dict[_Key, Optimizer] = {} if optimizer is None else {_OWN: optimizer}
    return own | (_others(things, optimizer, parameters) if with_others else {})


def _has_namesakes(
    things: _Things, optimizer: Optimizer | None, parameters: Sequence[Tensor], with_others: bool
) -> bool:
    """Whether several things are told apart by their number alone."""
    followers = _followers(things, optimizer, parameters, with_others)
    keys = [*followers, *_averages(things, parameters)]
    for follower in followers.values():
        keys += _counters(things, follower)
    return any(key[-1] > 0 for key in keys if key != _OWN)


def _others(
    things: _Things, own: Optimizer | None, parameters: Sequence[Tensor]
) -> dict[_Key, Optimizer]:
    """Optimizers that nobody distributed, of parameters that were, under names as below."""
    places = {id(p): place for place, p in enumerate(parameters)}
    found: dict[_Key, Optimizer] = {}
    for o in of_kind(Optimizer, things):
        if o is own:
            continue
        groups = getattr(o, "param_groups", ())
        held = tuple(places.get(id(p), -1) for group in groups for p in group["params"])
        if any(place >= 0 for place in held):
            found[_free_key(found, type(o).__qualname__, held)] = o
    return found


def _averages(things: _Things, parameters: Sequence[Tensor]) -> dict[_Key, AveragedModel]:
    """Averages (EMA, SWA) of models with these parameters, under names equal on all ranks."""
    shapes = {tuple(p.shape) for p in parameters}
    found: dict[_Key, AveragedModel] = {}
    for o in of_kind(AveragedModel, things):
        its = tuple(tuple(p.shape) for p in o.module.parameters())
        if shapes <= set(its):
            found[_free_key(found, type(o).__qualname__, its)] = o
    return found


def _packed(things: _Things, optimizer: Optimizer, with_state: bool) -> tuple[Any, ...]:
    state = optimizer.state_dict() if with_state else None
    counters = {
        key: pack(c) if isinstance(c, GradScaler) else _portable(c)
        for key, c in _counters(things, optimizer).items()
    }
    return state, _numbers(optimizer), counters


def _unpack(things: _Things, optimizer: Optimizer, packed: tuple[Any, ...]) -> None:
    state, numbers, counted = packed
    if state is not None:
        groups = optimizer.param_groups
        known = list(groups)
        load_as_sent(optimizer, state)
        for group, loaded in zip(known, optimizer.param_groups, strict=True):
            group.update(loaded)
        groups[:] = known  # an optimizer that wraps this one may have the same list
        optimizer.param_groups = groups
    for group, values in zip(optimizer.param_groups, numbers, strict=True):
        _set(group, values)
    for key, counter in _counters(things, optimizer).items():
        if not counted.get(key):
            continue
        if isinstance(counter, GradScaler):
            unpack(counter, counted[key])
        else:
            counter.load_state_dict(counted[key])


def _free_key(taken: Container[_Key], *name: Any) -> _Key:
    """One for each of several things of the same name, equal on all ranks."""
    number = 0
    while (*name, number) in taken:
        number += 1
    return (*name, number)


def _counters(things: _Things, optimizer: Optimizer) -> dict[_Key, Any]:
    """The schedulers of an optimizer and all gradient scalers, under names equal on all ranks."""
    schedulers = [
        o for o in of_kind(LRScheduler, things) if getattr(o, "optimizer", None) is optimizer
    ]
    # Those within another one (SequentialLR, ChainedScheduler) are part of its state.
    within = {id(inner) for s in schedulers for inner in getattr(s, "_schedulers", ())}
    found: dict[_Key, Any] = {}
    for thing in [
        *(s for s in schedulers if id(s) not in within),
        *enabled(of_kind(GradScaler, things)),
    ]:
        rates = repr(getattr(thing, "base_lrs", None))
        found[_free_key(found, type(thing).__qualname__, rates)] = thing
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
