"""Local SGD at the corners of a loop: batches of nothing, writes between rounds, what is left."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from typing import Any

import torch
from gearshift_testing import case
from gearshift_testing.local import SMALL, Ranks, batch_of, distributed, finish, step
from gearshift_testing.optimizers import Smooth
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
from gearshift.torch._registry import find

DILOCO = "local_sgd(2, outer_lr=0.5, outer_momentum=0.9)"


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.zero_grad()
    loss = cross_entropy(model, x, y)
    loss.backward()
    return loss


@case([2])
def a_batch_of_no_samples_is_a_step_left_out() -> None:
    """Its loss, and so its gradient, is NaN."""
    for what in ("backward", "accumulated", "closure", "said"):
        alone = Ranks(make("mlp"), OPTIMIZERS["adam"])
        for k in range(8):
            for r in range(2):
                if not (r == 1 and k in (1, 4)):
                    alone.step(r, batch_of(r, k, 3))
            if (k + 1) % 4 == 0:
                expected = alone.average()
        model, optimizer = distributed("local_sgd(4)", "adam")
        for k in range(8):
            nothing = gs.rank() == 1 and k in (1, 4)
            x, y = batch_of(gs.rank(), k, 0 if nothing and what != "said" else 3)

            x = x * math.nan if nothing else x
            if what == "closure":
                optimizer.step(functools.partial(gradients, model, x, y))
                continue
            if what == "said":
                gst.samples(0 if nothing else 3)
            with gst.no_sync(model) if what == "accumulated" else contextlib.nullcontext():
                gradients(model, x, y)
            optimizer.step()
        assert gst.stats(model)["step"] == 8
        finish(model, expected)


@case([2])
def gradients_by_hand_after_those_that_were_thrown_away() -> None:
    """They weigh what the latest backward did."""
    alone = Ranks(make("mlp"), OPTIMIZERS["sgd"])
    for k in range(2):
        for r in range(2):
            alone.step(r, batch_of(r, k, 3 + r))
    expected = alone.average()
    model, optimizer = distributed("local_sgd(2)")
    for k in range(2):
        loss = cross_entropy(model, *batch_of(gs.rank(), k, 3 + gs.rank()))
        optimizer.zero_grad()
        loss.backward()
        kept = [p.grad for p in model.parameters()]
        optimizer.zero_grad()
        for p, gradient in zip(model.parameters(), kept, strict=True):
            p.grad = gradient
        optimizer.step()
    finish(model, expected)


def write(model: nn.Module, value: float, way: str) -> None:
    with torch.no_grad():
        for p in model.parameters():
            other = torch.full_like(p, value)
            if way == "replaced":
                p.data = other
            elif way == "data":
                p.data.copy_(other)
            else:
                p.copy_(other)


def holds(model: nn.Module, value: float) -> bool:
    return all(torch.equal(p, torch.full_like(p, value)) for p in model.parameters())


@case((1, 2))
def what_is_written_after_the_last_round_stays() -> None:
    """The best of several checkpoints, say; and clipped weights at the end of an epoch."""
    for strategy in ("local_sgd(2)", DILOCO):
        for way in ("written", "data", "replaced"):
            model, optimizer = distributed(strategy)
            with gst.join(model):
                for k in range(4):
                    step(model, optimizer, *batch_of(gs.rank(), k, 3))
                write(model, 0.25, way)
            assert holds(model, 0.25), f"{strategy}, {way}, after a join"
            with gst.join(model):
                pass
            write(model, 0.5, way)
            gst.release(model)
            assert holds(model, 0.5), f"{strategy}, {way}, after a release"


@case([2])
def a_checkpoint_is_loaded_where_a_rank_has_no_batches() -> None:
    for way in ("written", "data", "replaced"):
        fresh = make("mlp")
        write(fresh, 0.25, "written")
        alone = Ranks(fresh, OPTIMIZERS["sgd"])
        for k in range(2):
            alone.step(0, batch_of(0, k, 3))
        model, optimizer = distributed(DILOCO)
        for k in range(2):
            step(model, optimizer, *batch_of(gs.rank(), k, 3))
        write(model, 0.25, way)
        its_state = optimizer.state_dict()["state"]
        for entry in its_state.values():
            entry["momentum_buffer"].zero_()
        with gst.join(model):
            for k in range(2 if gs.rank() == 0 else 0):
                step(model, optimizer, *batch_of(gs.rank(), k, 3))
        assert_equal_everywhere(model)
        if way == "written":
            reached = {n: p.clone() for n, p in model.named_parameters()}
        assert all(torch.equal(p, reached[n]) for n, p in model.named_parameters()), way
        gst.release(model)


@case([2])
def all_reduce_before_an_outer_optimizer() -> None:
    """It sees the changes since the switch, wherever the parameters are."""
    results = []
    for stage, replaces in (("auto", False), ("force", False), ("auto", True)):
        model = make("mlp")
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        strategy = f"switch(start=all_reduce, then={DILOCO}, at=4)"
        gst.distribute(model, optimizer, strategy, stage=stage)  # type: ignore[call-overload]
        for k in range(8):
            step(model, optimizer, *batch_of(gs.rank(), k, 3))
            if replaces and k == 2:
                optimizer.register_step_post_hook(replace_once(model))
        assert_equal_everywhere(model)
        gst.release(model)
        results.append(model)
    for other in results[1:]:
        assert difference(results[0], other) <= 1e-12


def replace_once(model: nn.Module) -> Any:
    done = []

    def hook(*_: Any) -> None:
        if not done:
            done.append(True)
            for p in model.parameters():
                p.data = p.data.clone()

    return hook


@case([2])
def state_that_is_rounded_on_its_way_is_so_on_all_ranks() -> None:
    model = make("mlp", torch.bfloat16)
    optimizer = Smooth(model.parameters())
    strategy = "switch(start=local_sgd(2), then=all_reduce, at=3)"
    gst.distribute(model, optimizer, strategy, elementwise=True)
    for k in range(40):
        x, y = batch_of(gs.rank(), k, 3)
        step(model, optimizer, x.bfloat16(), y)
    for state in optimizer.state_dict()["state"].values():
        for _, value in sorted(state.items()):
            both = gs.all_gather(torch.as_tensor(value, dtype=torch.float64))
            assert torch.equal(both[0], both[1])
    assert_equal_everywhere(model)
    gst.release(model)


@case([2])
def what_each_rank_has_of_its_own_is_one_after_a_switch_to_all_reduce() -> None:
    """Gradient scalers, which overflow on one rank, and another optimizer's state."""
    for at, size in ((3, 12), (4, 12), (6, 13), (7, 13)):
        data = TensorDataset(*batch_of(0, 0, size))  # of 13, rank 0 has 7
        model = make("mlp")
        first, *rest = model.parameters()
        other, its = torch.optim.Adam([first], lr=0.01), OPTIMIZERS["adam"](rest)
        gst.distribute(model, its, gs.StrategySwitch(gs.LocalSGD(2), gs.AllReduce(), gs.At(at)))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        for epoch in range(3):
            for k, (x, y) in enumerate(DataLoader(data, 1, sampler=gst.DistributedSampler(data))):
                overflows = gs.rank() == 1 and epoch == 0 and k in (1, 3)
                model.zero_grad()
                loss = cross_entropy(model, x * math.inf if overflows else x, y)
                scaler.scale(loss).backward()
                scaler.step(other)
                scaler.step(its)
                scaler.update()
        scales = gs.all_gather(torch.tensor([scaler.get_scale()]))
        assert torch.equal(scales[0], scales[1])
        assert_equal_everywhere(model)
        assert all(p.isfinite().all() for p in model.parameters())
        (switch,) = gst.stats(model)["switches"]
        assert switch["step"] == (at if at < 7 else 8), "with the first step that all make"
        gst.release(model)


@case([2])
def gradients_are_left_alone_after_a_switch_within_a_join() -> None:
    model, optimizer = distributed("switch(start=ps:bsp, then=local_sgd(1), at=2)")
    with gst.join(model):
        for k in range(2 - gs.rank()):
            step(model, optimizer, *batch_of(gs.rank(), k, 3))
    assert gst.stats(model)["strategy"] == "local_sgd(1)"
    optimizer.zero_grad(set_to_none=False)
    cross_entropy(model, *batch_of(gs.rank(), 5, 3)).backward()
    kept = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, k) for p, k in zip(model.parameters(), kept, strict=True))
    gst.release(model)


@case([2])
def steps_between_rounds_copy_nothing() -> None:
    """Of a model on an accelerator, say, every copy to the host waits for all kernels."""
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    strategy = "switch(start=local_sgd(3), then=all_reduce, at=5)"
    gst.distribute(model, optimizer, strategy, stage="force")
    its = find(model)
    assert its is not None
    copies = []
    for k in range(5):
        before = [t.value.clone() for t in its.adapter.trainables]
        step(model, optimizer, *batch_of(gs.rank(), k, 3))
        after = [t.value for t in its.adapter.trainables]
        copies.append(not all(torch.equal(*pair) for pair in zip(before, after, strict=True)))
    assert copies == [False, False, True, False, True]
    assert_equal_everywhere(model)
    gst.release(model)


@case([3])
def buffers_are_those_of_a_rank_with_most_steps() -> None:
    """Rank 0 has no batch, and the only round is that of the join, or of the release."""
    for joins in (True, False):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        gst.distribute(model, optimizer, gs.LocalSGD(8, bucket_mb=SMALL))

        def loop(model: nn.Module = model, optimizer: Any = optimizer) -> Tensor:
            for k in range(2 * gs.rank()):
                step(model, optimizer, *batch_of(gs.rank(), k, 4))
            return model[1].running_mean.clone()  # type: ignore[no-any-return, index, operator]

        if joins:
            with gst.join(model):
                own = loop()
        else:
            own = loop()
            gst.release(model)
        all_own = gs.all_gather(own)
        assert torch.equal(model[1].running_mean, all_own[2]), joins
        assert_equal_everywhere(model)
        if joins:
            gst.release(model)


@case([2])
def a_layout_that_is_changed_after_distribute() -> None:
    torch.manual_seed(5)
    start = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 4 * 4, 3))
    results = []
    for changes in (False, True):
        model = copy.deepcopy(start)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
        gst.distribute(model, optimizer, "local_sgd(3)")
        if changes:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for k in range(6):
            x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(k + 9 * gs.rank()))
            optimizer.zero_grad(set_to_none=False)
            nn.functional.cross_entropy(model(x), torch.tensor([0, 1])).backward()
            optimizer.step()
        gst.release(model)
        results.append(model)
    assert difference(*results) <= 1e-5


@case([2])
def schedules_of_other_optimizers_follow_at_a_join() -> None:
    model = make("mlp")
    first, *rest = model.parameters()
    other = torch.optim.SGD([first], lr=0.1)
    its = torch.optim.SGD(rest, lr=0.1)
    gst.distribute(model, its, "local_sgd(3)")
    schedule = torch.optim.lr_scheduler.StepLR(other, 1, 0.5)
    with gst.join(model):
        for k in range(4 if gs.rank() == 0 else 2):
            loss = cross_entropy(model, *batch_of(gs.rank(), k, 3))
            model.zero_grad()
            loss.backward()
            other.step()
            its.step()
            schedule.step()
    assert schedule.last_epoch == 4
    assert other.param_groups[0]["lr"] == 0.1 * 0.5**4
    assert_equal_everywhere(model)
    gst.release(model)
