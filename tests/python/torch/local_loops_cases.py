"""Local SGD in the loops that people write: uneven data, accumulation, clipping, AMP, switches."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.local import SMALL, Ranks, batch_of, distributed, finish, step
from gearshift_testing.training import (
    OPTIMIZERS,
    assert_equal_everywhere,
    batches,
    cross_entropy,
    difference,
    make,
    train,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gearshift as gs
import gearshift.torch as gst


@case((2, 3))
def ranks_run_out_of_batches_in_the_middle_of_a_round() -> None:
    steps = [7, 4, 0][: gs.world_size()]
    sizes = [3, 5, 1]
    alone = Ranks(make("mlp"), OPTIMIZERS["adam"])
    for _ in range(2):
        for k in range(max(steps)):
            for r, n in enumerate(steps):
                if k < n:
                    alone.step(r, batch_of(r, k, sizes[r]))
            if (k + 1) % 3 == 0:
                alone.average()
        expected = alone.average()
    model, optimizer = distributed(gs.LocalSGD(3, bucket_mb=SMALL), "adam")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1)
    for _ in range(2):
        with gst.join(model):
            for k in range(steps[gs.rank()]):
                step(model, optimizer, *batch_of(gs.rank(), k, sizes[gs.rank()]))
                schedule.step()
        assert_equal_everywhere(model)
        assert gst.stats(model)["step"] % max(steps) == 0
        assert schedule.last_epoch == gst.stats(model)["step"], "follows those with most steps"
    finish(model, expected)


@case([3])
def the_end_of_an_epoch_is_a_round() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(25, 6, generator=generator, dtype=torch.float64)
    data = TensorDataset(x, torch.randint(0, 3, (25,), generator=generator))
    alone = Ranks(make("mlp"), OPTIMIZERS["sgd"])
    orders = [list(range(r, 25, 3)) for r in range(3)]
    for _ in range(2):
        for k in range(5):
            for r, order in enumerate(orders):
                if part := order[2 * k : 2 * k + 2]:
                    alone.step(r, data[part])
            if (k + 1) % 4 == 0:
                alone.average()
        expected = alone.average()
    model, optimizer = distributed("local_sgd(4)")
    sampler = gst.DistributedSampler(data, shuffle=False)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch in DataLoader(data, 2, sampler=sampler):
            step(model, optimizer, *batch)
        assert_equal_everywhere(model)  # without being asked for
    finish(model, expected)


@case([2])
def gradients_may_be_accumulated_and_clipped() -> None:
    alone = Ranks(make("mlp"), OPTIMIZERS["sgd"])
    for k in range(6):
        for r in range(2):
            parts = [batch_of(r, 10 * k + i, 2 + r) for i in range(3)]
            alone.step(r, *parts, clip=0.1 * (1 + r))
        if (k + 1) % 3 == 0:
            expected = alone.average()
    for no_sync in (False, True):
        model, optimizer = distributed(gs.LocalSGD(3, bucket_mb=SMALL))
        before = gst.stats(model)["bytes_sent"]
        for k in range(6):
            optimizer.zero_grad()
            for i in range(3):
                batch = batch_of(gs.rank(), 10 * k + i, 2 + gs.rank())
                if no_sync and i < 2:
                    with gst.no_sync(model):
                        cross_entropy(model, *batch).backward()
                else:
                    cross_entropy(model, *batch).backward()
            own = [p.grad.clone() for p in model.parameters()]
            norm = gst.clip_grad_norm_(model, 0.1 * (1 + gs.rank()))
            assert float(norm) == pytest.approx(float(nn.utils.get_total_norm(own)), rel=1e-12)
            if k < 2:
                assert gst.stats(model)["bytes_sent"] == before, "nothing travels before a round"
            optimizer.step()
        finish(model, expected)


@case([2])
def batches_of_no_samples_teach_nothing() -> None:
    """Their loss is NaN, and so are their gradients."""
    alone = Ranks(make("mlp"), OPTIMIZERS["adamw"])
    for k in range(6):
        for r in range(2):
            if not (r == 1 and k in (1, 5)):
                alone.step(r, batch_of(r, k, 3))
        if k % 3 == 2:
            expected = alone.average()
    model, optimizer = distributed("local_sgd(3)", "adamw")
    for k in range(6):
        step(model, optimizer, *batch_of(gs.rank(), k, 0 if gs.rank() == 1 and k in (1, 5) else 3))
    assert gst.stats(model)["step"] == 6
    finish(model, expected)


@case([2])
def gradients_are_left_alone_by_a_round() -> None:
    model, optimizer = distributed("local_sgd(2)")
    for k in range(4):
        x, y = batch_of(gs.rank(), k, 3)
        for set_to_none in (True, False):
            optimizer.zero_grad(set_to_none=set_to_none)
        cross_entropy(model, x, y).backward()
        kept = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        assert all(torch.equal(p.grad, k) for p, k in zip(model.parameters(), kept, strict=True))
    gst.release(model)


@case([2])
def a_scaler_that_leaves_out_a_step_on_one_rank() -> None:
    alone = Ranks(make("mlp"), OPTIMIZERS["adam"])
    for k in range(8):
        for r in range(2):
            if not (r == 1 and k == 2):
                alone.step(r, batch_of(r, k, 3))
        if (k + 1) % 4 == 0:
            expected = alone.average()
    for unscale in (False, True):
        model, optimizer = distributed("local_sgd(4)", "adam")
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        for k in range(8):
            x, y = batch_of(gs.rank(), k, 3)
            if gs.rank() == 1 and k == 2:
                x = x * math.inf
            optimizer.zero_grad()
            scaler.scale(cross_entropy(model, x, y)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert gst.stats(model)["step"] == 8
        finish(model, expected, 1e-11)


@case([2])
def fused_optimizers_and_closures() -> None:
    alone = Ranks(make("mlp"), OPTIMIZERS["adam"])
    for k in range(6):
        for r in range(2):
            alone.step(r, batch_of(r, k, 3))
        if (k + 1) % 3 == 0:
            expected = alone.average()
    for fused in (False, True):
        model = make("mlp")
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=fused)
        model, optimizer = gst.distribute(model, optimizer, "local_sgd(3)")
        scaler = torch.amp.GradScaler("cpu", enabled=fused)

        def loss_of(
            k: int,
            model: nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            scaler: torch.amp.GradScaler = scaler,
        ) -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model, *batch_of(gs.rank(), k, 3))
            scaler.scale(loss).backward()
            return loss

        for k in range(6):
            if fused:
                loss_of(k)
                scaler.step(optimizer)
                scaler.update()
            else:
                assert isinstance(optimizer.step(functools.partial(loss_of, k)), Tensor)
        finish(model, expected, 1e-11)


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


@case((2, 3))
def buffers_are_those_of_one_rank_after_a_round() -> None:
    torch.manual_seed(5)
    start = Normed().double()
    own = copy.deepcopy(start)
    model = copy.deepcopy(start)
    make_sgd = OPTIMIZERS["sgd"]
    model, optimizer = gst.distribute(model, make_sgd(model.parameters()), "local_sgd(3)")
    for k in range(3):
        step(model, optimizer, *batch_of(gs.rank(), k, 4))
    assert_equal_everywhere(model)
    its = make_sgd(own.parameters())
    for k in range(3):
        cross_entropy(own, *batch_of(0, k, 4)).backward()
        its.step()
        its.zero_grad()
    assert torch.equal(model[1].running_mean, own[1].running_mean), "rank 0's"
    gst.release(model)


@case([2])
def parameters_that_one_rank_alone_uses_and_frozen_and_tied_ones() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)
            self.tied = nn.Linear(6, 6)
            self.tied.weight = self.inner.weight
            self.rare = nn.Linear(6, 3)
            self.often = nn.Linear(6, 3)
            self.frozen = nn.Linear(6, 6)
            self.frozen.requires_grad_(False)
            self.rarely = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.tied(self.inner(self.frozen(x)).tanh())
            return self.rare(x) if self.rarely else self.often(x)

    torch.manual_seed(2)
    start = Odd().double()
    alone = Ranks(start, OPTIMIZERS["adam"])
    alone.models[1].rarely = True
    for k in range(4):
        for r in range(2):
            alone.step(r, batch_of(r, k, 3))
        if k % 2 == 1:
            expected = alone.average()
    model = copy.deepcopy(start)
    model, optimizer = gst.distribute(
        model, OPTIMIZERS["adam"](model.parameters()), gs.LocalSGD(2, bucket_mb=SMALL)
    )
    model.rarely = gs.rank() == 1
    for k in range(4):
        step(model, optimizer, *batch_of(gs.rank(), k, 3))
    finish(model, expected)


@case((2, 3))
def a_switch_passes_through_local_sgd() -> None:
    """Under BSP, before and after; rank 0's momentum goes to all at the end of the phase."""
    n = gs.world_size()
    for other in (gs.AllReduce(bucket_mb=SMALL), gs.ParameterServer(bucket_mb=SMALL)):
        alone = Ranks(make("mlp"), OPTIMIZERS["sgd"])
        for k, (x, y) in enumerate(batches(30), 1):
            is_local = 10 < k <= 21
            for r in range(n):
                part = (x.chunk(n)[r], y.chunk(n)[r]) if is_local else (x, y)
                alone.step(r, part)
            if not is_local or k in (14, 18, 21):
                expected = alone.average()
            if k == 21:
                for optimizer in alone.optimizers[1:]:
                    optimizer.load_state_dict(copy.deepcopy(alone.optimizers[0].state_dict()))
        model, its = distributed(
            gs.StrategySwitch(other, gs.LocalSGD(4), gs.At(step=10), gs.At(step=21))
        )
        train(model, its, batches(30))
        assert [s["step"] for s in gst.stats(model)["switches"]] == [10, 21]
        assert gst.stats(model)["switches"][0]["to"] == "local_sgd(4)"
        finish(model, expected)


@case([2])
def a_switch_by_the_loss_comes_after_a_round() -> None:
    model, optimizer = distributed(
        gs.StrategySwitch(gs.LocalSGD(3), gs.AllReduce(), gs.LossPlateau(1, 1e9))
    )
    for epoch in range(3):
        for k in range(4):
            x, y = batch_of(gs.rank(), k, 3)
            loss = cross_entropy(model, x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss, epoch=epoch)  # type: ignore[call-arg]
    (switch,) = gst.stats(model)["switches"]
    assert switch["step"] == 9, "the first round of the third epoch"
    assert_equal_everywhere(model)
    gst.release(model)


@case([3])
def policies_see_the_loss_of_all_ranks_and_steps() -> None:
    seen: list[float] = []

    def look(metrics: gs._core.Metrics) -> bool:
        seen.append(metrics.loss)
        return False

    model, optimizer = distributed(gs.StrategySwitch(gs.LocalSGD(2), gs.AllReduce(), look))
    for _ in range(4):
        loss = cross_entropy(model, *batch_of(gs.rank(), 0, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=1.0 + gs.rank())  # type: ignore[call-arg]
    assert seen == [pytest.approx(math.nan, nan_ok=True), pytest.approx(2.0)]
    assert gst.stats(model)["loss"] == pytest.approx(2.0)
    gst.release(model)


@case([2])
def a_release_is_a_round() -> None:
    model, optimizer = distributed("local_sgd(4)")
    for k in range(4):
        step(model, optimizer, *batch_of(gs.rank(), k, 3))
    assert_equal_everywhere(model)
    step(model, optimizer, *batch_of(gs.rank(), 4, 3))
    own = copy.deepcopy(model)
    gst.release(model)
    assert difference(model, own) > 0
    assert_equal_everywhere(model)


@case((1, 2))
def what_cannot_be_is_refused() -> None:
    model = make("mlp")
    with pytest.raises(gs.InvalidArgument, match="counts the steps of the optimizer"):
        gst.distribute(model, None, "local_sgd(4)")
    lbfgs = torch.optim.LBFGS(model.parameters())
    with pytest.raises(gs.Unsupported, match="LBFGS"):
        gst.distribute(model, lbfgs, "switch(then=local_sgd(4), at=3)")
    gst.distribute(model, lbfgs, "local_sgd(4)")
    gst.release(model)


@case([2])
def compressed_changes_are_rounded_as_pytorch_rounds() -> None:
    start = make("mlp", torch.float32)
    strategy = gs.LocalSGD(2, compression="bf16", bucket_mb=SMALL)
    model = copy.deepcopy(start)
    model, its = gst.distribute(model, OPTIMIZERS["sgd"](model.parameters()), strategy)
    train(model, its, batches(2, dtype=torch.float32))
    changes = []
    for r in range(2):
        own = copy.deepcopy(start)
        optimizer = OPTIMIZERS["sgd"](own.parameters())
        for x, y in batches(2, dtype=torch.float32):
            optimizer.zero_grad()
            cross_entropy(own, x.chunk(2)[r], y.chunk(2)[r]).backward()
            optimizer.step()
        changes.append(
            [(a - b).detach() for a, b in zip(start.parameters(), own.parameters(), strict=True)]
        )
    for p, before, *both in zip(model.parameters(), start.parameters(), *changes, strict=True):
        mean = sum((c / 2).bfloat16().float() for c in both).bfloat16().float()
        assert torch.equal(p, before - mean)
    assert_equal_everywhere(model)
    gst.release(model)
