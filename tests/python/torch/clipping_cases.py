"""gst.clip_grad_norm_ of gradients that no backward has exchanged, and to nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.training import (
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

Run = Callable[[nn.Module, torch.optim.Optimizer, bool], None]
WORLDS = (1, 2, 3)
STEPS = 12


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def clip(model: nn.Module, alone: bool, norm: float = 0.05) -> Tensor:
    if alone:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
    return gst.clip_grad_norm_(model, norm)


def equal_to_alone(run: Run) -> None:
    alone = reference(make("mlp"), sgd, lambda m, o: run(m, o, True))
    for strategy in (gs.AllReduce(bucket_mb=2**-10), gs.ParameterServer(bucket_mb=2**-10)):
        model = make("mlp")
        model, its = gst.distribute(model, sgd(model.parameters()), strategy)
        run(model, its, False)
        assert_equal_everywhere(model)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: {found:.2e}"


@case(WORLDS)
def what_was_accumulated_under_no_sync() -> None:
    def run(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for x, y in batches(STEPS):
            its.zero_grad()
            with nullcontext() if alone else gst.no_sync(model):
                for shift in (0, 1):
                    part = (x, y) if alone else (share(x), share(y))
                    cross_entropy(model, part[0] + shift, part[1]).backward()
            clip(model, alone)
            its.step()

    equal_to_alone(run)


@case(WORLDS)
def gradients_that_were_set() -> None:
    """And a look at those that a step has left exchanges nothing: one rank may have it alone."""

    def run(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        parameters = list(model.parameters())
        for x, y in batches(STEPS):
            loss = cross_entropy(model, x if alone else share(x), y if alone else share(y))
            for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.grad = gradient
            clip(model, alone)
            its.step()
            if gs.rank() == 0:
                clip(model, alone, math.inf)

    equal_to_alone(run)


@case([2])
def the_last_batch_of_a_rank_that_steps_early() -> None:
    """Accumulated under no_sync, as the others' of that moment, which go on."""
    data = list(batches(4))
    lengths = (4, 3)

    def weighted(model: nn.Module, first: int) -> None:
        """The mean of what ranks have accumulated from batch `first` on, by samples."""
        sums, total = [torch.zeros_like(p) for p in model.parameters()], 0.0
        for rank, length in enumerate(lengths):
            model.zero_grad()
            mine = [tuple(t.chunk(2)[rank] for t in pair) for pair in data[first:length][:2]]
            for x, y in mine:
                cross_entropy(model, x, y).backward()
            samples = float(sum(len(x) for x, _ in mine))
            total += samples
            for sum_, p in zip(sums, model.parameters(), strict=True):
                sum_ += samples * p.grad
        for sum_, p in zip(sums, model.parameters(), strict=True):
            p.grad = sum_ / total

    def run(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        if alone:
            for first in (0, 2):
                weighted(model, first)
                clip(model, alone)
                its.step()
            return
        with gst.join(model):
            for i, (x, y) in enumerate(data[: lengths[gs.rank()]]):
                quiet: AbstractContextManager[None] = nullcontext() if i % 2 else gst.no_sync(model)
                with quiet:
                    cross_entropy(model, share(x), share(y)).backward()
                if i % 2 == 1 or i + 1 == lengths[gs.rank()]:
                    clip(model, alone)
                    its.step()
                    its.zero_grad()

    equal_to_alone(run)


@case(WORLDS)
def a_norm_of_zero_leaves_nothing() -> None:
    def run(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        def to_nothing(step: int) -> None:
            clip(model, alone, 0.0 if step % 2 else 0.05)

        train(model, its, batches(STEPS), alone=alone, before_step=to_nothing)

    equal_to_alone(run)


@case([1])
def a_norm_that_is_none() -> None:
    model = make("mlp")
    model, _ = gst.distribute(model, sgd(model.parameters()), "ps:bsp")
    cross_entropy(model, *next(batches(1))).backward()
    for norm in (-1.0, math.nan):
        with pytest.raises(gs.InvalidArgument, match="max_norm"):
            gst.clip_grad_norm_(model, norm)
    gst.release(model)
