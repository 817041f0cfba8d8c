"""Buffers that share memory, with each other or with parameters, and where workers meet."""

from __future__ import annotations

import copy

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.training import (
    assert_equal_everywhere,
    batches,
    difference,
    make,
    reference,
    train,
)
from torch import Tensor, nn

import gearshift as gs
import gearshift.torch as gst

STEPS = 10
WORLDS = (1, 2)


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class Views(nn.Module):
    """Counts steps in views of one tensor, the last of which is all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = make("mlp")
        table = torch.arange(6, dtype=torch.float64).view(2, 3)
        self.register_buffer("row", table[1])
        self.register_buffer("column", table[:, 2])
        self.register_buffer("other", table[:, 0])
        self.register_buffer("table", table)
        self.register_buffer("same", table.detach())

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.row += 1
            self.column += self.table[0, 0] + 1
            self.other -= self.same[1, 2] / 9
        return self.body(x) * self.table.sum().cos()


@case(WORLDS)
def buffers_that_are_views_of_others() -> None:
    start = Views()

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for part in range(3):
            train(model, its, batches(STEPS), alone=alone)
            if part == 0:
                with torch.no_grad():
                    model.row = model.row * 0.5  # no view any more, but others are
            elif part == 1:
                model.table, model.other = model.table * 0.5, model.other * 0.5
                model.same = model.same * 0.5

    alone = reference(start, sgd, lambda m, o: loop(m, o, True))
    for strategy in (gs.AllReduce(), gs.ParameterServer()):
        for stage in ("auto", "force"):
            model = copy.deepcopy(start)
            model, its = gst.distribute(model, sgd(model.parameters()), strategy, stage=stage)
            train(model, its, batches(1))
            copied = copy.deepcopy(model)
            copied.table.zero_()
            together = not copied.row.any() and not copied.same.any()
            gst.release(model)
            assert together, "a copy's views are views"
            model = copy.deepcopy(start)
            model, its = gst.distribute(model, sgd(model.parameters()), strategy, stage=stage)
            loop(model, its, False)
            assert_equal_everywhere(model)
            found = difference(model, alone)
            gst.release(model)
            assert found <= 1e-12, f"{strategy}, {stage}: relative difference {found:.2e}"
            for name, buffer in model.named_buffers():
                assert torch.allclose(buffer, alone.get_buffer(name), 1e-12, 1e-12), name


@case([1, 2])
def memory_that_cannot_stay_shared() -> None:
    def refused(first: str, second: str, **options: object) -> None:
        with pytest.raises(gs.InvalidArgument, match=rf"'{first}'.*'{second}'"):
            gst.distribute(model, sgd(model.parameters()), **options)

    model = nn.Linear(6, 3)
    model.register_buffer("seen", model.weight.detach()[1])
    refused("seen", "weight")
    refused("seen", "weight", broadcast_buffers=False)
    model.weight.requires_grad_(False)
    refused("weight", "seen")
    gst.distribute(model, sgd(model.parameters()), broadcast_buffers=False)
    gst.release(model)
    model = nn.Linear(6, 3)
    both = torch.zeros(9)
    model.register_buffer("first", both[:6])
    model.register_buffer("second", both[3:])
    refused("first", "second", strategy="all_reduce")
    gst.distribute(model, sgd(model.parameters()), broadcast_buffers=False)
    gst.release(model)
    model.second = both[6:]
    gst.distribute(model, sgd(model.parameters()))
    gst.release(model)
    columns = torch.zeros(5, 2)
    model.first, model.second = columns.unbind(1)  # they have no element in common
    gst.distribute(model, sgd(model.parameters()))
    gst.release(model)


@case([1, 2])
def views_of_a_buffer_that_becomes_another() -> None:
    model = Views()
    model, its = gst.distribute(model, sgd(model.parameters()))
    train(model, its, batches(2))
    model.table = model.table * 0.5
    with pytest.raises(gs.InvalidArgument, match=r"'table', of which 'row' and 'column' are views"):
        train(model, its, batches(1))
    gs.barrier()
    gst.release(model)


@case([2])
def buffers_are_equal_after_a_switch_back() -> None:
    """Workers meet there; also those of an accelerator, which are copied to and from the core."""
    strategy = gs.StrategySwitch(start="ps:bsp", then="all_reduce", policy=gs.At(step=2))
    for stage in ("auto", "force"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
        model, its = gst.distribute(model, sgd(model.parameters()), strategy, stage=stage)
        for step in range(2):
            its.zero_grad()
            model(torch.randn(4, 3) + gs.rank() + step).mean().backward()
            its.step()
        mine = model[0].running_mean.clone()
        assert gst.stats(model)["strategy"] == "all_reduce"
        assert torch.equal(gst.broadcast_object(mine), mine), f"{stage}: {mine}"
        gst.release(model)


@case([2, 3])
def statistics_are_equal_when_a_model_is_released() -> None:
    """Those of a worker that made most steps, the last one here; others have other data."""
    for strategy in ("ps:asp", "ps:ssp(1)", "ps:bsp"):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
        model, its = gst.distribute(model, sgd(model.parameters()), strategy)
        rank, last = gs.rank(), gs.world_size() - 1
        for step in range(4 if rank == last else 3):
            its.zero_grad()
            x = torch.randn(5, 6, dtype=torch.float64) + rank
            loss = model(x).square().mean()
            loss.backward()
            its.step(loss=loss)
            assert int(model[1].num_batches_tracked) == step + 1
        own = model[1].running_mean.clone()
        gst.release(model)
        assert_equal_everywhere(model)
        assert torch.equal(model[1].running_mean, own) == (rank == last)
        assert int(model[1].num_batches_tracked) == 4
