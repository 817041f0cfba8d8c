"""Scales of losses (GradScaler), which are each rank's own until gradients are summed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from gearshift_testing import case
from gearshift_testing.local import batch_of
from gearshift_testing.training import (
    OPTIMIZERS,
    assert_equal_everywhere,
    cross_entropy,
    difference,
    make,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gearshift as gs
import gearshift.torch as gst

Batch = tuple[Tensor, Tensor]


def scaler_of(interval: int = 2000) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=interval)


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Batch,
    factor: float = 1,
) -> None:
    x, y = batch
    optimizer.zero_grad()
    scaler.scale(cross_entropy(model, x * factor, y)).backward()
    scaler.step(optimizer)
    scaler.update()


def scales(scaler: torch.amp.GradScaler) -> Tensor:
    """All ranks'. Collective."""
    state = scaler.state_dict()
    mine = torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)
    return gs.all_gather(mine)


def equal(scaler: torch.amp.GradScaler) -> bool:
    all_scales = scales(scaler)
    return bool((all_scales == all_scales[0]).all())


def on_all_samples(start: nn.Module, state: dict[str, object], steps: Iterable[int]) -> nn.Module:
    """What one process makes of all ranks' batches, without any scale."""
    alone = copy.deepcopy(start)
    optimizer = OPTIMIZERS["sgd"](alone.parameters())
    optimizer.load_state_dict(copy.deepcopy(state))  # type: ignore[arg-type]
    for k in steps:
        parts = [batch_of(r, k, 3) for r in range(gs.world_size())]
        optimizer.zero_grad()
        cross_entropy(alone, *(torch.cat(p) for p in zip(*parts, strict=True))).backward()
        optimizer.step()
    return alone


SERVED = [
    gs.ParameterServer(consistency=gs.ASP()),
    gs.ParameterServer(consistency=gs.SSP(2)),
    gs.ParameterServer(consistency=gs.Buffered(2)),
    gs.ParameterServer(),
]


@case([2, 3])
def one_rank_backs_off_before_a_switch_to_all_reduce() -> None:
    for start in SERVED:
        for overflow in (1, 3):  # before the switch, and in its step
            model = make("mlp")
            optimizer = OPTIMIZERS["sgd"](model.parameters())
            scaler = scaler_of()
            gst.distribute(model, optimizer, gs.StrategySwitch(start, gs.AllReduce(), gs.At(3)))
            for k in range(3):
                overflows = gs.rank() == 1 and k + 1 == overflow
                factor = math.inf if overflows else 1
                step(model, optimizer, scaler, batch_of(gs.rank(), k, 3), factor)
            assert gst.stats(model)["strategy"].startswith("all_reduce")
            assert equal(scaler), (start, overflow)
            before, state = copy.deepcopy((model, optimizer.state_dict()))
            for k in range(3, 9):
                step(model, optimizer, scaler, batch_of(gs.rank(), k, 3))
            assert_equal_everywhere(model)
            alone = on_all_samples(before, state, range(3, 9))
            assert difference(model, alone) <= 1e-12, (start, overflow)
            gst.release(model)


@case([2, 3])
def one_rank_backs_off_and_has_no_batches_when_others_switch() -> None:
    """With as many steps as they have made, or fewer."""
    for own in (3, 2, 0):
        model = make("mlp")
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        scaler = scaler_of(interval=5)
        strategy = gs.StrategySwitch(SERVED[0], gs.AllReduce(), gs.At(3))
        gst.distribute(model, optimizer, strategy)
        with gst.join(model):
            for k in range(own if gs.rank() == 1 else 3):
                factor = math.inf if gs.rank() == 1 and k == 1 else 1
                step(model, optimizer, scaler, batch_of(gs.rank(), k, 3), factor)
        assert gst.stats(model)["strategy"].startswith("all_reduce")
        assert equal(scaler), own
        assert scales(scaler)[0].tolist() == [2.0**10, 3]
        before, state = copy.deepcopy((model, optimizer.state_dict()))
        for k in range(3, 9):
            step(model, optimizer, scaler, batch_of(gs.rank(), k, 3))
        assert equal(scaler)
        assert_equal_everywhere(model)
        assert difference(model, on_all_samples(before, state, range(3, 9))) <= 1e-12, own
        gst.release(model)


@case([2])
def scales_that_differ_under_all_reduce_are_an_error() -> None:
    """A checkpoint of the scaler that one rank alone has loaded."""
    model = make("mlp")
    model, optimizer = gst.distribute(model, OPTIMIZERS["sgd"](model.parameters()))
    scaler = scaler_of()
    if gs.rank() == 1:
        scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**9})
    error = ""
    try:
        for k in range(3):
            step(model, optimizer, scaler, batch_of(gs.rank(), k, 3))
    except gs.MismatchError as caught:
        error = str(caught)
    assert "ranks applied step 1 with different optimizer settings" in error, error
    assert "GradScaler" in error


@case([2])
def a_rank_makes_its_first_step_after_a_join() -> None:
    """It leaves out the first one, as all do, and has no more batches."""
    model = make("mlp")
    model, optimizer = gst.distribute(model, OPTIMIZERS["adam"](model.parameters()))
    scaler = scaler_of()
    for _ in range(2):
        with gst.join(model):
            for k in range(1 if gs.rank() == 1 else 3):
                step(model, optimizer, scaler, batch_of(gs.rank(), k, 3), 1 if k else math.inf)
    step(model, optimizer, scaler, batch_of(gs.rank(), 3, 3))
    assert equal(scaler)
    assert_equal_everywhere(model)
    gst.release(model)


@case([2, 3])
def the_last_step_of_an_epoch_overflows() -> None:
    """Rank 0 alone makes it, and joins with the next epoch; the others have joined in a step."""
    for strategy in ("all_reduce", "switch(start=ps:asp, then=all_reduce, at=2)"):
        model = make("mlp")
        model, optimizer = gst.distribute(model, OPTIMIZERS["sgd"](model.parameters()), strategy)
        scaler = scaler_of(interval=4)
        data = TensorDataset(*batch_of(0, 0, gs.world_size() + 1))
        begins = []
        for epoch in range(5):
            for k, batch in enumerate(DataLoader(data, 1, sampler=gst.DistributedSampler(data))):
                if k == 0:
                    begins.append(scaler.state_dict())
                step(model, optimizer, scaler, batch, math.inf if k == 1 and epoch < 3 else 1)
        gst.release(model)
        first = 2 if "asp" in strategy else 0  # which is under servers
        assert begins[first:] == gst.broadcast_object(begins)[first:], strategy
        assert equal(scaler), strategy
        assert_equal_everywhere(model)
