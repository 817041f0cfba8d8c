"""Which models are distributed."""

from __future__ import annotations

import weakref

from torch import nn

from .. import _session
from ..errors import InvalidArgument
from ._distributed import Distributed

_models: weakref.WeakKeyDictionary[nn.Module, Distributed] = weakref.WeakKeyDictionary()


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that torch.compile wrapped, if it did."""
    return getattr(model, "_orig_mod", model)


def register(model: nn.Module, distributed: Distributed) -> None:
    """Remember what became of a model, and end it with the job."""
    _models[unwrapped(model)] = distributed
    _session.before_close(distributed.close)


def find(model: nn.Module) -> Distributed | None:
    """What became of a model, unless nothing did, or it is over."""
    found = _models.get(unwrapped(model))
    return None if found is None or found.closed else found


def get(model: nn.Module) -> Distributed:
    """What became of a model.

    Raises:
        InvalidArgument: when it was not distributed.
    """
    found = _models.get(unwrapped(model))
    if found is None:
        raise InvalidArgument(
            f"this {type(model).__name__} was not distributed: pass the model that you gave to "
            "gst.distribute()"
        )
    return found


def settle_epochs() -> None:
    """Join the epochs of which this rank has seen all samples."""
    for distributed in everything():
        distributed.epoch.settle()


def everything() -> list[Distributed]:
    """All models that are distributed, in the order in which they became so."""
    return [d for d in _models.values() if not d.closed]
