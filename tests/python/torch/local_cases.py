"""Local SGD: workers train alone, and take over the mean of their parameters now and then."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.training import (
    OPTIMIZERS,
    MakeOptimizer,
    assert_equal_everywhere,
    batches,
    cross_entropy,
    difference,
    make,
    reference,
    train,
)
from torch import Tensor, nn

import gearshift as gs
import gearshift.torch as gst

STEPS = 50
SMALL = 2**-10
"""Buckets of 1 KiB: several per model."""
Batch = tuple[Tensor, Tensor]


class Outer:
    """The mean of several models, and the outer optimizer, as PyTorch computes them."""

    def __init__(self, models: Sequence[nn.Module], lr: float = 1, momentum: float = 0) -> None:
        self._models = models
        self._center = copy.deepcopy(models[0])
        self._optimizer = torch.optim.SGD(
            self._center.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0
        )

    def average(self, weights: Sequence[float]) -> None:
        """One round."""
        total = sum(weights)
        parameters = [list(m.parameters()) for m in self._models]
        with torch.no_grad():
            for i, center in enumerate(self._center.parameters()):
                means = (p[i] * (w / total) for p, w in zip(parameters, weights, strict=True) if w)
                center.grad = center - sum(means)
        self._optimizer.step()
        with torch.no_grad():
            for own in parameters:
                for p, center in zip(own, self._center.parameters(), strict=True):
                    p.copy_(center)


def side_by_side(
    start: nn.Module,
    make_optimizer: MakeOptimizer,
    every: int,
    data: Iterator[Batch],
    **outer: float,
) -> nn.Module:
    """What the ranks do, in one process: equal batches, rounds after each `every` steps."""
    n = gs.world_size()
    models = [copy.deepcopy(start) for _ in range(n)]
    optimizers = [make_optimizer(m.parameters()) for m in models]
    rounds = Outer(models, **outer)
    for step, (x, y) in enumerate(data, 1):
        for model, optimizer, *part in zip(models, optimizers, x.chunk(n), y.chunk(n), strict=True):
            optimizer.zero_grad()
            cross_entropy(model, *part).backward()
            optimizer.step()
        if step % every == 0:
            rounds.average([1] * n)
    if step % every != 0:
        rounds.average([1] * n)
    return models[0]


def trained(
    strategy: gs.strategy.Strategy | str,
    optimizer: str = "sgd",
    model: str = "mlp",
    dtype: torch.dtype = torch.float64,
) -> nn.Module:
    """A model trained under it, the same on all ranks."""
    made = make(model, dtype)
    if gs.rank() > 0:  # rank 0's parameters are what counts
        nn.init.normal_(next(made.parameters()))
    made, its = gst.distribute(made, OPTIMIZERS[optimizer](made.parameters()), strategy)
    train(made, its, batches(STEPS, model, dtype=dtype))
    gst.release(made)
    assert_equal_everywhere(made)
    return made


@case((1, 2, 3, 5))
def equals_models_side_by_side() -> None:
    for optimizer, model, every in (("sgd", "mlp", 8), ("adam", "cnn", 5), ("adamw", "mlp", 1)):
        alone = side_by_side(make(model), OPTIMIZERS[optimizer], every, batches(STEPS, model))
        found = trained(gs.LocalSGD(every, bucket_mb=SMALL), optimizer, model)
        assert difference(found, alone) <= 1e-12, (optimizer, model, every)


@case((1, 2, 3))
def the_outer_optimizer_is_that_of_pytorch() -> None:
    alone = side_by_side(make("mlp"), OPTIMIZERS["adam"], 5, batches(STEPS), lr=0.7, momentum=0.9)
    strategy = gs.LocalSGD(5, outer_lr=0.7, outer_momentum=0.9, bucket_mb=SMALL)
    assert difference(trained(strategy, "adam"), alone) <= 1e-12


@case((1, 2, 3))
def with_a_round_in_each_step_it_is_all_reduce() -> None:
    """SGD, momentum included, is linear in the gradients."""
    alone = reference(
        make("mlp"), OPTIMIZERS["sgd"], lambda m, o: train(m, o, batches(STEPS), alone=True)
    )
    assert difference(trained("local_sgd(1)"), alone) <= 1e-12


@case([2])
def the_outer_optimizer_does_not_see_a_checkpoint() -> None:
    """One that is loaded before the first step, and one at the end of a round."""
    outer = {"lr": 0.7, "momentum": 0.9}
    torch.manual_seed(9)
    loaded = [torch.randn(3, 16, dtype=torch.float64) for _ in range(2)]
    alone = make("mlp")
    with torch.no_grad():
        alone[4].weight.copy_(loaded[0])
    alone = side_by_side(alone, OPTIMIZERS["sgd"], 4, batches(4), **outer)

    model = make("mlp")
    strategy = gs.LocalSGD(4, outer_lr=0.7, outer_momentum=0.9, bucket_mb=SMALL)
    model, its = gst.distribute(model, OPTIMIZERS["sgd"](model.parameters()), strategy)
    with torch.no_grad():
        model[4].weight.copy_(loaded[0])
    train(model, its, batches(4))
    assert difference(model, alone) <= 1e-12
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        model[4].weight.copy_(loaded[1])
    for group in its.param_groups:
        group["lr"] = 0.0
    train(model, its, batches(4))
    gst.release(model)
    # Nothing was learnt; what is left moves by the outer momentum alone.
    moved = [float((p - b).abs().max()) for p, b in zip(model.parameters(), before, strict=True)]
    assert (
        float((model[4].weight - loaded[1]).abs().max())
        < 0.5
        < float((before[4] - loaded[1]).abs().max())
    )
    assert moved[0] > 0
    assert_equal_everywhere(model)


@case([2])
def checkpoints_that_differ_are_found() -> None:
    model = make("mlp")
    model, its = gst.distribute(
        model, OPTIMIZERS["sgd"](model.parameters()), "local_sgd(2, outer_momentum=0.5)"
    )
    with torch.no_grad():
        model[4].weight += gs.rank()
    with pytest.raises(gs.MismatchError, match="written to the parameters"):
        train(model, its, batches(2))


@case([2])
def parameters_elsewhere() -> None:
    """Staged as those on an accelerator are."""
    alone = side_by_side(make("mlp"), OPTIMIZERS["sgd"], 4, batches(STEPS))
    model = make("mlp")
    model, its = gst.distribute(
        model, OPTIMIZERS["sgd"](model.parameters()), "local_sgd(4)", stage="force"
    )
    train(model, its, batches(STEPS))
    gst.release(model)
    assert difference(model, alone) <= 1e-12


@case([2])
def parameters_of_half_precision() -> None:
    """The mean is that of the models side by side, but for the rounding of their type."""
    for dtype in (torch.float16, torch.bfloat16):
        start = make("mlp", dtype)
        own = []
        for rank in range(2):
            alone = copy.deepcopy(start)
            its = OPTIMIZERS["sgd"](alone.parameters())
            for x, y in batches(3, dtype=dtype):
                its.zero_grad()
                cross_entropy(alone, x.chunk(2)[rank], y.chunk(2)[rank]).backward()
                its.step()
            own.append([p.detach().double() for p in alone.parameters()])
        model, its = gst.distribute(start, OPTIMIZERS["sgd"](start.parameters()), "local_sgd(3)")
        train(model, its, batches(3, dtype=dtype))
        assert_equal_everywhere(model)
        for found, one, other in zip(model.parameters(), *own, strict=True):
            mean = (one + other) / 2
            bound = torch.finfo(dtype).eps * (one.abs() + other.abs()) + 1e-7
            assert bool(((found.double() - mean).abs() <= bound).all()), dtype
        gst.release(model)
