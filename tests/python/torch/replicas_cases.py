"""Checkpoints that not all ranks have loaded, and other writes that are not alike."""

from __future__ import annotations

import copy
from typing import Any

import torch
from gearshift_testing import case
from gearshift_testing.local import SMALL, batch_of, distributed, step
from gearshift_testing.training import (
    OPTIMIZERS,
    assert_equal_everywhere,
    difference,
    make,
)
from torch import nn

import gearshift as gs
import gearshift.torch as gst

DILOCO = gs.LocalSGD(2, outer_lr=0.7, outer_momentum=0.9, bucket_mb=SMALL)


def checkpoint() -> dict[str, Any]:
    model = make("mlp")
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    return copy.deepcopy(model.state_dict())


def error_of(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> str:
    """What training says of different ranks."""
    try:
        for k in steps:
            step(model, optimizer, *batch_of(gs.rank(), k, 3))
    except gs.MismatchError as error:
        return str(error)
    return ""


def started(strategy: str | gs.strategy.Strategy, stage: str) -> tuple[nn.Module, Any]:
    model = make("mlp")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    return gst.distribute(model, optimizer, strategy, stage=stage)  # type: ignore[call-overload]


def not_loaded(strategy: str | gs.strategy.Strategy, stage: str, after: int) -> str:
    """Rank 1 alone loads nothing, after some steps; the job is over then."""
    model, optimizer = started(strategy, stage)
    for k in range(after):
        step(model, optimizer, *batch_of(gs.rank(), k, 3))
    if gs.rank() != 1:
        model.load_state_dict(checkpoint())
    return error_of(model, optimizer, range(4))


@case([2, 3])
def all_reduce_finds_it_with_the_first_step() -> None:
    assert "different parameters before the first step" in not_loaded("all_reduce", "auto", 0)


@case([2])
def all_reduce_finds_it_of_parameters_elsewhere() -> None:
    assert "different parameters before the first step" in not_loaded("all_reduce", "force", 0)


@case([2])
def all_reduce_finds_it_before_a_switch() -> None:
    assert "different parameters" in not_loaded("switch(then=ps:asp, at=9)", "auto", 0)


@case([2])
def all_reduce_finds_other_optimizer_state() -> None:
    """Of a checkpoint that one rank alone has loaded, or another one."""
    for kind, all_load in (("adam", False), ("sgd", True)):
        model, optimizer = distributed("all_reduce", kind)
        for k in range(2):
            step(model, optimizer, *batch_of(gs.rank(), k, 3))
        state = copy.deepcopy(optimizer.state_dict())
        if gs.rank() == 1:
            for entry in state["state"].values():
                for value in entry.values():
                    value += 1
        gst.release(model)
        model, optimizer = distributed("all_reduce", kind)
        if all_load or gs.rank() == 1:
            optimizer.load_state_dict(state)
        error = error_of(model, optimizer, range(3))
        assert "ranks applied step 1 with different optimizer settings" in error, kind
        assert "checkpoints, of the optimizer" in error


@case([2])
def rounds_of_means_find_it() -> None:
    for after in (0, 2):
        error = not_loaded("local_sgd(2)", "auto", after)
        assert ("checkpoint" if gs.rank() == 1 else "written to the parameters") in error


@case([2])
def rounds_of_means_find_it_of_parameters_elsewhere() -> None:
    error = not_loaded("local_sgd(2)", "force", 2)
    assert ("checkpoint" if gs.rank() == 1 else "written to the parameters") in error


@case([2, 3])
def a_rank_that_has_no_batches_has_not_loaded_it() -> None:
    """It has what the others have, in the end."""
    for strategy in ("all_reduce", "local_sgd(2)", "ps:bsp", DILOCO):
        results = []
        for all_load in (True, False):
            model, optimizer = distributed(strategy)
            for k in range(2):
                step(model, optimizer, *batch_of(gs.rank(), k, 3))
            if all_load or gs.rank() == 0:
                model.load_state_dict(checkpoint())
            for _ in range(2):
                with gst.join(model):
                    for k in range(3 if gs.rank() == 0 else 0):
                        step(model, optimizer, *batch_of(gs.rank(), k, 3))
            assert_equal_everywhere(model)
            for k in range(2):
                step(model, optimizer, *batch_of(gs.rank(), k, 3))
            gst.release(model)
            assert_equal_everywhere(model)
            results.append(model)
        if strategy != "ps:bsp":  # whose parameters anybody may write
            assert difference(*results) <= 1e-12, strategy


@case([2])
def a_rank_without_batches_has_not_loaded_the_outer_momentum() -> None:
    model, optimizer = distributed(DILOCO)
    for k in range(2):
        step(model, optimizer, *batch_of(gs.rank(), k, 3))
    if gs.rank() == 0:
        state = optimizer.state_dict()
        momentum = state["gearshift_outer_momentum"]
        state["gearshift_outer_momentum"] = {n: 2 * m for n, m in momentum.items()}
        optimizer.load_state_dict(state)
    with gst.join(model):
        for k in range(2 if gs.rank() == 0 else 0):
            step(model, optimizer, *batch_of(gs.rank(), k, 3))
    for k in range(4):
        step(model, optimizer, *batch_of(gs.rank(), k, 3))
    assert_equal_everywhere(model)
    gst.release(model)


@case([2])
def replicas_that_have_drifted_are_one_after_a_join() -> None:
    """With as many steps on all ranks, of which nothing else tells."""
    for strategy in ("all_reduce", "local_sgd(2)", DILOCO):
        model, optimizer = distributed(strategy)
        with gst.join(model):
            for k in range(4):
                step(model, optimizer, *batch_of(gs.rank(), k, 3))
            model[0].bias.data[0] += 1e-9 * gs.rank()
        assert_equal_everywhere(model)
        with gst.join(model):
            step(model, optimizer, *batch_of(gs.rank(), 4, 3))
        assert_equal_everywhere(model)
        gst.release(model)


@case([2])
def a_checkpoint_is_not_rounded_by_compression() -> None:
    for steps in (2, 1):  # the round of the step, and that of the release
        model = make("mlp", torch.float32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        gst.distribute(model, optimizer, gs.LocalSGD(2, compression="bf16"))
        loaded = {name: value.float() for name, value in checkpoint().items()}
        model.load_state_dict(loaded)
        for k in range(steps):
            x, y = batch_of(gs.rank(), k, 3)
            step(model, optimizer, x.float(), y)
        gst.release(model)
        assert all(torch.equal(p, loaded[n]) for n, p in model.state_dict().items())
