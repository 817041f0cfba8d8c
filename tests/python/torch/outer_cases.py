"""What the outer optimizer of local SGD remembers; its rounds with one worker, and at joins."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.local import SMALL, Batch, batch_of, step
from gearshift_testing.training import (
    assert_equal_everywhere,
    cross_entropy,
    difference,
    make,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gearshift as gs
import gearshift.torch as gst

OUTER = {"lr": 0.7, "momentum": 0.9}
DILOCO = gs.LocalSGD(3, outer_lr=0.7, outer_momentum=0.9, bucket_mb=SMALL)
KEY = "gearshift_outer_momentum"


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """It has no state, of which a resumed job would have that of rank 0 everywhere."""
    return torch.optim.SGD(parameters, lr=0.05)


class Alone:
    """All ranks, and the outer optimizer, in one process."""

    def __init__(self, start: nn.Module, ranks: int) -> None:
        self.models = [copy.deepcopy(start) for _ in range(ranks)]
        self.optimizers = [sgd(m.parameters()) for m in self.models]
        self.center = copy.deepcopy(start)
        self._outer = torch.optim.SGD(self.center.parameters(), nesterov=True, **OUTER)

    def steps(self, batches: Sequence[Sequence[Batch]]) -> None:
        """Of each step the batches of all ranks."""
        for parts in batches:
            for model, optimizer, (x, y) in zip(self.models, self.optimizers, parts, strict=True):
                optimizer.zero_grad()
                cross_entropy(model, x, y).backward()
                optimizer.step()

    def average(self) -> None:
        """A round, all ranks with equal weight."""
        own = [list(m.parameters()) for m in self.models]
        with torch.no_grad():
            for i, p in enumerate(self.center.parameters()):
                p.grad = p - sum(o[i] for o in own) / len(own)
        self._outer.step()
        with torch.no_grad():
            for parameters in own:
                for p, center in zip(parameters, self.center.parameters(), strict=True):
                    p.copy_(center)


def data_of(steps: range) -> list[list[Batch]]:
    return [[batch_of(r, k, 3) for r in range(gs.world_size())] for k in steps]


def saved(thing: Any) -> Any:
    """As a file has it."""
    memory = io.BytesIO()
    torch.save(thing, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=True)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for k in steps:
        step(model, optimizer, *batch_of(gs.rank(), k, 3))


@case((1, 2, 3))
def a_resumed_job_has_the_momentum() -> None:
    alone = Alone(make("mlp"), gs.world_size())
    for first in range(0, 18, 3):
        alone.steps(data_of(range(first, first + 3)))
        alone.average()
    for when in ("before", "after", "released"):
        model = make("mlp")
        model, optimizer = gst.distribute(model, sgd(model.parameters()), DILOCO)
        trained(model, optimizer, range(9))
        if when == "released":
            gst.release(model)
        checkpoint = saved((model.state_dict(), optimizer.state_dict()))
        if when != "released":
            gst.release(model)
        plain = make("mlp")
        sgd(plain.parameters()).load_state_dict(checkpoint[1])  # one without gearshift takes it

        model = make("mlp")
        nn.init.normal_(model[0].weight)
        optimizer = sgd(model.parameters())
        if when != "after" and gs.rank() == 0:
            model.load_state_dict(checkpoint[0])
            optimizer.load_state_dict(checkpoint[1])
        gst.distribute(model, optimizer, DILOCO)
        if when == "after":
            model.load_state_dict(checkpoint[0])
            optimizer.load_state_dict(checkpoint[1])
        trained(model, optimizer, range(9, 18))
        assert difference(model, alone.center) <= 1e-12, when
        assert_equal_everywhere(model)
        gst.release(model)


@case((1, 2))
def checkpoints_without_momentum_begin_with_none() -> None:
    for strategy in (gs.LocalSGD(3), DILOCO):
        model = make("mlp")
        model, optimizer = gst.distribute(model, sgd(model.parameters()), strategy)
        old = saved((model.state_dict(), optimizer.state_dict()))
        assert KEY not in old[1]
        trained(model, optimizer, range(3))
        assert (KEY in optimizer.state_dict()) == (strategy is DILOCO)
        reached = copy.deepcopy(model)
        model.load_state_dict(old[0])
        optimizer.load_state_dict(old[1])
        assert KEY not in optimizer.state_dict()
        trained(model, optimizer, range(3))
        assert difference(model, reached) <= 1e-12
        gst.release(model)


@case([2])
def the_momentum_goes_with_the_names_of_parameters() -> None:
    """A layer that is unfrozen begins with none."""
    model = make("mlp")
    model[0].requires_grad_(False)
    optimizer = sgd(model.parameters())
    gst.distribute(model, optimizer, DILOCO)
    trained(model, optimizer, range(6))
    kept = optimizer.state_dict()[KEY]
    gst.release(model)
    model[0].requires_grad_(True)
    gst.distribute(model, optimizer, DILOCO)
    found = optimizer.state_dict()[KEY]
    assert all(torch.equal(found[name], value) for name, value in kept.items())
    assert not found.get("0.weight", torch.zeros(1)).any()
    with pytest.raises(gs.InvalidArgument, match=r"outer momentum of '0\.bias' .* shape"):
        optimizer.load_state_dict(optimizer.state_dict() | {KEY: {"0.bias": torch.ones(3)}})
    gst.release(model)


@case([2])
def momentum_that_one_rank_alone_has_loaded_is_found() -> None:
    model = make("mlp")
    model, optimizer = gst.distribute(model, sgd(model.parameters()), DILOCO)
    trained(model, optimizer, range(3))
    if gs.rank() == 1:
        state = optimizer.state_dict()
        state[KEY] = {name: value + 1 for name, value in state[KEY].items()}
        optimizer.load_state_dict(state)
    with pytest.raises(gs.MismatchError, match="written to the parameters"):
        trained(model, optimizer, range(3, 6))
    assert KEY in optimizer.state_dict(), "for a last checkpoint"


@case((1, 2))
def one_worker_has_the_rounds_of_many() -> None:
    """All ranks have the same batches; epochs of five steps end in rounds of two."""
    batches = [batch_of(0, k, 1) for k in range(5)]
    alone = Alone(make("mlp"), 1)
    for _ in range(3):
        for part in (batches[:3], batches[3:]):
            alone.steps([[b] for b in part])
            alone.average()
    every = [t.repeat_interleave(gs.world_size(), 0) for b in batches for t in b]
    data = TensorDataset(torch.cat(every[::2]), torch.cat(every[1::2]))

    def by_sampler(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        sampler = gst.DistributedSampler(data, shuffle=False)
        for _ in range(3):
            for x, y in DataLoader(data, 1, sampler=sampler):
                step(model, optimizer, x, y)

    def by_join(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            with gst.join(model):
                for x, y in batches:
                    step(model, optimizer, x, y)

    loops: list[Callable[[nn.Module, torch.optim.Optimizer], None]] = [by_sampler, by_join]
    for loop in loops:
        model = make("mlp")
        model, optimizer = gst.distribute(model, sgd(model.parameters()), DILOCO)
        loop(model, optimizer)
        assert difference(model, alone.center) <= 1e-12, loop
        gst.release(model)


@case([2])
def one_module_joins_once() -> None:
    model = make("mlp")
    model, optimizer = gst.distribute(model, sgd(model.parameters()), DILOCO)
    with gst.join(model):
        with pytest.raises(gs.InvalidArgument, match="within another one"), gst.join(model):
            pass
        trained(model, optimizer, range(1 + gs.rank()))
    assert_equal_everywhere(model)
    gst.release(model)


class ByRows(torch.optim.Optimizer):
    """Of a class that no other process can import, with state that is not element-wise."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.05, "name": "rows"})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                mean = p.grad.float().square().mean(0)
                state["rows"] = state["rows"] + mean if state else mean
                p.data -= group["lr"] * p.grad / (1 + state["rows"].sqrt())


ByRows.__module__ = "__main__"


def state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [s["rows"].clone() for s in optimizer.state_dict()["state"].values()]


@case([2])
def any_optimizer_may_switch_to_all_reduce() -> None:
    model = make("mlp")
    optimizer = ByRows(model.parameters())
    strategy = gs.StrategySwitch(gs.LocalSGD(2), gs.AllReduce(), gs.At(4), back=gs.At(8))
    gst.distribute(model, optimizer, strategy)
    alone = make("mlp")
    its = ByRows(alone.parameters())
    others, theirs = make("mlp"), None
    theirs = ByRows(others.parameters())
    for k in range(4):
        trained(model, optimizer, range(k, k + 1))
        for each, o, r in ((alone, its, 0), (others, theirs, 1)):
            o.zero_grad()
            cross_entropy(each, *batch_of(r, k, 3)).backward()
            o.step()
        if k % 2 == 1:
            with torch.no_grad():
                for p, q in zip(alone.parameters(), others.parameters(), strict=True):
                    p.copy_((p + q) / 2)
                    q.copy_(p)
    for found, expected in zip(state_of(optimizer), state_of(its), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5), "rank 0's"
    for k in range(4, 8):
        trained(model, optimizer, range(k, k + 1))
        parts = [batch_of(r, k, 3) for r in range(2)]
        its.zero_grad()
        cross_entropy(alone, *(torch.cat(p) for p in zip(*parts, strict=True))).backward()
        its.step()
    assert difference(model, alone) <= 1e-5
    assert_equal_everywhere(model)
    gst.release(model)
