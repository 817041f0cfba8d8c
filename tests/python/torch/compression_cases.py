"""Gradients of float32 that travel as bfloat16."""

from __future__ import annotations

import copy

import torch
from gearshift_testing import case
from gearshift_testing.training import (
    OPTIMIZERS,
    assert_equal_everywhere,
    batches,
    cross_entropy,
    difference,
    make,
    reference,
    share,
    train,
)
from torch import Tensor, nn

import gearshift as gs
import gearshift.torch as gst

STEPS = 100
SMALL = 2**-10
STRATEGIES: dict[str, gs.strategy.Strategy] = {
    "all_reduce": gs.AllReduce(compression="bf16", bucket_mb=SMALL),
    "bsp": gs.ParameterServer(compression="bf16", bucket_mb=SMALL),
    "bsp_1_shard": gs.ParameterServer(compression="bf16", bucket_mb=SMALL, shards=1),
    "switch": gs.StrategySwitch(
        start=gs.AllReduce(compression="bf16", bucket_mb=SMALL),
        then=gs.ParameterServer(compression="bf16"),
        policy=gs.At(step=30),
        back=gs.At(step=60),
    ),
}
U = 2**-8
"""Half a unit in the last of bfloat16's eight places, relative."""


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """This rank's own, by PyTorch alone."""
    alone = copy.deepcopy(model)
    cross_entropy(alone, x, y).backward()
    return [p.grad for p in alone.parameters() if p.grad is not None]


def everybodys(gradient: Tensor) -> Tensor:
    """Of all ranks, one behind the other. Collective."""
    all_ = torch.zeros(gs.world_size(), gradient.numel(), dtype=gradient.dtype)
    all_[gs.rank()] = gradient.flatten()
    return gs.all_reduce(all_)


@case((1, 2, 3, 4))
def under_all_reduce_each_share_is_rounded_as_pytorch_rounds() -> None:
    start = make("mlp", torch.float32)
    x, y = (share(t) for t in next(batches(1, dtype=torch.float32)))
    own = gradients(start, x, y)
    for algorithm in ("auto", "ring", "tree", "recursive_doubling"):
        model = copy.deepcopy(start)
        strategy = gs.AllReduce(algorithm, compression="bf16", bucket_mb=SMALL)
        gst.distribute(model, OPTIMIZERS["sgd"](model.parameters()), strategy)
        cross_entropy(model, x, y).backward()
        for parameter, mine in zip(model.parameters(), own, strict=True):
            shares = everybodys(mine) / gs.world_size()
            found = parameter.grad.flatten()
            if gs.world_size() == 1:
                assert torch.equal(found, shares[0]), "nothing travels"
                continue
            rounded = shares.bfloat16().float()
            if gs.world_size() == 2:  # one sum: there is one way to round it
                assert torch.equal(found, rounded.sum(0).bfloat16().float())
            bound = gs.world_size() * U * shares.abs().sum(0) * 1.01
            assert bool(((found - shares.sum(0)).abs() <= bound).all())
            assert torch.equal(found, found.bfloat16().float())
        assert_equal_everywhere(model)
        gst.release(model)


def by_servers(strategy: str, step: int) -> bool:
    """Whether a step (from 1) is made under a server."""
    return strategy.startswith("bsp") or (strategy == "switch" and 30 < step <= 60)


def train_alone(model: nn.Module, optimizer: torch.optim.Optimizer, strategy: str) -> None:
    """What the ranks do, in one process, with PyTorch's conversions to bfloat16."""
    n = gs.world_size()
    for step, (x, y) in enumerate(batches(STEPS, dtype=torch.float32), 1):
        shares = [gradients(model, *part) for part in zip(x.chunk(n), y.chunk(n), strict=True)]
        for parameter, *own in zip(model.parameters(), *shares, strict=True):
            if by_servers(strategy, step):
                parameter.grad = sum(g.bfloat16().float() for g in own) / n
            else:
                total = sum((g / n).bfloat16().float() for g in own)
                parameter.grad = total.bfloat16().float()
        optimizer.step()


def trained(strategy: str, dtype: torch.dtype) -> nn.Module:
    """A model trained under it, the same on all ranks."""
    model = make("mlp", dtype)
    model, its = gst.distribute(model, OPTIMIZERS["sgd"](model.parameters()), STRATEGIES[strategy])
    train(model, its, batches(STEPS, dtype=dtype))
    assert_equal_everywhere(model)
    assert len(gst.stats(model)["switches"]) == (2 if strategy == "switch" else 0)
    gst.release(model)
    return model


@case([2])
def trains_as_one_process_that_rounds() -> None:
    for strategy in STRATEGIES:
        alone = make("mlp", torch.float32)
        train_alone(alone, OPTIMIZERS["sgd"](alone.parameters()), strategy)
        found = difference(trained(strategy, torch.float32), alone)
        # Sums in another order may come to lie on the other side of a tie, now and then.
        assert found <= 2e-3, f"{strategy}: relative difference {found:.2e}"


@case([3])
def replicas_are_equal_whatever_the_order_of_sums() -> None:
    for strategy in STRATEGIES:
        trained(strategy, torch.float32)


@case([2])
def float64_is_left_alone() -> None:
    alone = reference(
        make("mlp"), OPTIMIZERS["sgd"], lambda m, o: train(m, o, batches(STEPS), alone=True)
    )
    for strategy in STRATEGIES:
        assert difference(trained(strategy, torch.float64), alone) <= 1e-12


@case((1, 2))
def a_push_is_rounded_as_pytorch_rounds() -> None:
    start = make("mlp", torch.float32)
    x, y = (share(t) for t in next(batches(1, dtype=torch.float32)))
    own = gradients(start, x, y)
    model = copy.deepcopy(start)
    strategy = gs.ParameterServer(gs.BSP(), compression="bf16", bucket_mb=SMALL)
    model, its = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.5), strategy)
    its.zero_grad()
    loss = cross_entropy(model, x, y)
    loss.backward()
    its.step(loss=loss)
    for now, before, mine in zip(model.parameters(), start.parameters(), own, strict=True):
        mean = everybodys(mine.bfloat16().float()).sum(0) / gs.world_size()
        wanted = before.detach().flatten() - 0.5 * mean
        torch.testing.assert_close(now.detach().flatten(), wanted, rtol=1e-6, atol=1e-7)
    gst.release(model)


@case([2])
def an_unused_parameter_keeps_no_gradient() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "spare": nn.Linear(4, 2)})
    strategy = gs.AllReduce(compression="bf16")
    model, its = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1), strategy)
    which = "used" if gs.rank() == 0 else "spare"
    model[which](torch.ones(3, 4)).sum().backward()
    assert all(p.grad is not None for p in model.parameters()), "each has one on some rank"
    its.step()
    its.zero_grad()
    model["used"](torch.ones(3, 4)).sum().backward()
    assert all(p.grad is None for p in model["spare"].parameters())
    assert float(model["used"].weight.grad[0, 0]) == 3.0
    gst.release(model)
