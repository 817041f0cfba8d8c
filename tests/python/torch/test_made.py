"""What counts steps is found in the order of its making, and is not changed by that."""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import pickle
import sys
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, ReduceLROnPlateau, StepLR
from torch.optim.swa_utils import AveragedModel

import gearshift.torch  # noqa: F401  (as scripts do)
from gearshift.torch import _follow, _made
from gearshift.torch._made import made, of_kind


@pytest.fixture(autouse=True)
def quiet_collector() -> Iterator[None]:
    """What earlier tests left is gone, and order changes only where a test collects."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def sgd(lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=lr, momentum=0.9)


def is_among(o: object, objects: list[object]) -> bool:
    return any(o is other for other in objects)


def places(objects: list[object], among: list[object]) -> list[int]:
    return [next(k for k, o in enumerate(among) if o is wanted) for wanted in objects]


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (torch.optim.Optimizer, sgd),
        (LRScheduler, lambda: StepLR(sgd(), 3)),
        (LRScheduler, lambda: ReduceLROnPlateau(sgd())),
        (LRScheduler, lambda: ChainedScheduler([StepLR(sgd(), 3)])),
        (torch.amp.GradScaler, lambda: torch.amp.GradScaler("cpu")),
        (AveragedModel, lambda: AveragedModel(nn.Linear(2, 2))),
    ],
)
def test_order_is_that_of_making_whatever_the_collector_does(kind: type, make: object) -> None:
    both = []
    for _ in range(3):
        both.append(make())
        gc.collect()
    both.append(make())
    for freeze in (False, True):
        if freeze:
            gc.freeze()
        found = places(both, made(kind))
        gc.unfreeze()
        assert found == sorted(found)
    # An address that is used again does not bring its place along.
    del both[0]
    both.append(make())
    found = places(both, made(kind))
    assert found == sorted(found)


def test_nothing_is_kept_alive() -> None:
    scheduler = StepLR(sgd(), 3)
    ends = [weakref.ref(scheduler), weakref.ref(scheduler.optimizer)]
    del scheduler
    gc.collect()
    assert [end() for end in ends] == [None, None]


class Late(StepLR):
    """Calls its base late, and twice; equal to whatever is one, and not hashable."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.extra = 1
        super().__init__(optimizer, 3)
        super().__init__(optimizer, 4)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Late)

    __hash__ = None


def test_subclasses_may_call_their_base_late_and_twice() -> None:
    both = [Late(sgd()), Late(sgd())]
    found = [o for o in made(LRScheduler) if type(o) is Late]
    assert places(both, found) == [0, 1]
    assert len(found) == 2


def test_a_second_import_wraps_no_more() -> None:
    scheduler = StepLR(sgd(), 3)
    wrapped = [kind.__init__ for kind in _made._NOTED]
    importlib.reload(_made)
    module = sys.modules.pop(_made.__name__)
    try:
        again = importlib.import_module(module.__name__)
        assert again is not module
        assert again._made is module._made
    finally:
        sys.modules[module.__name__] = module
    assert [kind.__init__ for kind in _made._NOTED] == wrapped
    assert not any(hasattr(init.__wrapped__, "__wrapped__") for init in wrapped)
    gc.freeze()
    found = is_among(scheduler, made(LRScheduler))
    gc.unfreeze()
    assert found


def test_copies_are_found_and_nothing_is_added_to_what_is_saved() -> None:
    scheduler = StepLR(sgd(), 3)
    assert set(scheduler.state_dict()) == set(vars(scheduler)) - {"optimizer"}
    optimizer = sgd()
    assert not any("gearshift" in name for name in (*vars(optimizer), *vars(scheduler)))
    saved = pickle.dumps(optimizer)
    assert b"gearshift" not in saved
    for other in (copy.deepcopy(optimizer), copy.copy(optimizer), pickle.loads(saved)):
        assert other.state_dict() == optimizer.state_dict()
        assert is_among(other, made(torch.optim.Optimizer))
    other = copy.deepcopy(scheduler)
    assert other.state_dict() == scheduler.state_dict()
    assert is_among(other, made(LRScheduler))
    average = AveragedModel(nn.Linear(2, 2))
    for other in (copy.deepcopy(average), pickle.loads(pickle.dumps(average))):
        assert is_among(other, made(AveragedModel))


def test_signatures_and_texts_stay() -> None:
    assert list(inspect.signature(LRScheduler).parameters) == ["optimizer", "last_epoch"]
    assert list(inspect.signature(torch.optim.Optimizer).parameters) == ["params", "defaults"]
    for kind in _made._NOTED:
        init = kind.__init__
        assert init.__qualname__ == f"{kind.__name__}.__init__"
        assert inspect.signature(init) == inspect.signature(init.__wrapped__)
        assert init.__doc__ == init.__wrapped__.__doc__


def test_several_kinds_are_found_in_one_look() -> None:
    optimizer = sgd()
    schedulers = [StepLR(optimizer, 1), copy.copy(StepLR(optimizer, 2))]
    found = made(torch.optim.Optimizer, LRScheduler)
    assert is_among(optimizer, of_kind(torch.optim.Optimizer, found))
    assert all(is_among(s, of_kind(LRScheduler, found)) for s in schedulers)
    for kind in (torch.optim.Optimizer, LRScheduler):
        assert [id(o) for o in of_kind(kind, found)] == [id(o) for o in made(kind)]


def test_the_end_of_an_epoch_looks_through_all_objects_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There are hundreds of thousands."""
    looks: list[int] = []
    real = gc.get_objects
    monkeypatch.setattr(gc, "get_objects", lambda: looks.append(1) or real())
    monkeypatch.setattr(_follow._session, "rank", lambda: 0)
    monkeypatch.setattr(_follow, "share_object", lambda mine, root: mine)
    model = nn.Linear(3, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    _kept_alive = StepLR(optimizer, 1), AveragedModel(model)
    _follow.follow(optimizer, list(model.parameters()), 0, with_state=True)
    assert len(looks) == 1
