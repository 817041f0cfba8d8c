"""What was made since this module was imported and counts steps, in the order of its making.

Neither an optimizer nor PyTorch knows the schedulers, scalers and averages of a training. The
garbage collector does, but in an order that changes when it runs, which it does at other times on
each rank, and not once they are frozen (``gc.freeze``).
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel

from ._outer import keep_loaded

_NOTED: tuple[type, ...] = (
    Optimizer,
    LRScheduler,
    # These three do not call __init__ of LRScheduler.
    ReduceLROnPlateau,
    SequentialLR,
    ChainedScheduler,
    GradScaler,
    AveragedModel,
)
_MARK = "_gearshift_made"
"""Where a wrapped ``__init__`` keeps what it notes, so that a second import wraps no more."""


def made(*kinds: type) -> list[Any]:
    """The living objects of these classes, in an order equal on ranks that make them in the same.

    Last come those that nobody saw being made, in the collector's order: older than the import,
    copied, unpickled, or of a class that leaves out its base's ``__init__``. To find them it goes
    through all objects, hundreds of thousands: ask once for all classes, and `of_kind` for each.
    """
    seen = of_kind(kinds, noted())
    known = {id(o) for o in seen}
    return seen + [o for o in of_kind(kinds, gc.get_objects()) if id(o) not in known]


def noted() -> list[Any]:
    """Of those, the ones that were seen being made: cheap enough for every step."""
    return [o for r in _made.valuerefs() if (o := r()) is not None]


def of_kind(kinds: type | tuple[type, ...], things: Iterable[Any]) -> list[Any]:
    """Those of a class, or of one of several."""
    fits: set[int] = set()
    classes = list(kinds) if isinstance(kinds, tuple) else [kinds]
    while classes:
        cls = classes.pop()
        fits.add(id(cls))
        classes += type.__subclasses__(cls)
    # By type(): isinstance() would have proxies load what they stand for. By its address: what
    # equality means among classes is up to theirs.
    return [o for o in things if id(type(o)) in fits]


def _note(o: Any) -> None:
    """Once for each object, whose address may be that of a dead one."""
    if _made.get(id(o)) is not o:
        _made.pop(id(o), None)  # else it took the dead one's place in the order
        _made[id(o)] = o
        if isinstance(o, Optimizer):
            keep_loaded(o)


def _wrap(cls: Any) -> None:
    init = cls.__init__
    if hasattr(init, _MARK):
        return

    @functools.wraps(init)
    def noting(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        _note(self)

    setattr(noting, _MARK, _made)
    cls.__init__ = noting


# By identity: objects may define equality, and a mark on them would be copied and saved.
_made: WeakValueDictionary[int, Any] = getattr(Optimizer.__init__, _MARK, WeakValueDictionary())
for _cls in _NOTED:
    _wrap(_cls)
