"""Loops in which other optimizers than the one given to distribute() have a part."""

from __future__ import annotations

import logging

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.optimizers import Factor
from gearshift_testing.training import (
    MLP,
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

STEPS = 12


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def plain(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
    train(model, its, batches(STEPS), alone=alone)


@case([2])
def functions_as_options() -> None:
    """Ranks have them at addresses of their own."""
    model = make("mlp")
    its = sgd(model.parameters())
    its.param_groups[0]["rule"] = lambda x: x
    gst.distribute(model, its)
    gst.release(model)
    its.param_groups[0]["rule"] = torch.tanh if gs.rank() else torch.exp
    with pytest.raises(gs.MismatchError, match="rule"):
        gst.distribute(model, its)


@case([1, 2])
def arguments_of_step() -> None:
    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for x, y in batches(STEPS):
            its.zero_grad()
            cross_entropy(model, x if alone else share(x), y if alone else share(y)).backward()
            its.step(factor=0.5)

    alone = reference(make("mlp"), lambda p: Factor(p, lr=0.1), lambda m, o: loop(m, o, True))
    model = make("mlp")
    model, its = gst.distribute(model, Factor(model.parameters(), lr=0.1))
    loop(model, its, False)
    found = difference(model, alone)
    gst.release(model)
    assert found <= 1e-12
    model, its = gst.distribute(model, its, "ps:bsp", elementwise=True)
    with pytest.raises(gs.Unsupported, match="takes no factor"):
        loop(model, its, False)
    gst.release(model)


def two(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """One for matrices, one for the rest, as with Muon."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    return sgd(matrices), torch.optim.AdamW(rest, lr=0.01)


@case([2, 3])
def two_optimizers_of_one_model() -> None:
    """Ranks have different numbers of batches, so one takes over what others' optimizers know."""
    n = gs.world_size()
    data = [batch for batch, _ in zip(batches(7 * n), range(7), strict=False)]
    data = [(x[:4], y[:4]) for x, y in data]

    def step(model: nn.Module, both: object, x: Tensor, y: Tensor) -> None:
        for its in both:
            its.zero_grad()
        cross_entropy(model, x, y).backward()
        for its in both:
            its.step()

    def schedules(both: object) -> list[torch.optim.lr_scheduler.LRScheduler]:
        return [torch.optim.lr_scheduler.ExponentialLR(its, 0.9) for its in both]

    alone = make("mlp")
    both = two(alone)
    rates = schedules(both)
    for _ in range(2):
        for i in range(0, 7, n):
            x, y = (torch.cat(parts) for parts in zip(*data[i : i + n], strict=True))
            step(alone, both, x, y)
            for rate in rates:
                rate.step()
    for given in (1, None):
        model = make("mlp")
        both = two(model)
        rates = schedules(both)
        gst.distribute(model, None if given is None else both[given])
        for _ in range(2):
            with gst.join(model):
                for x, y in data[gs.rank() :: n]:
                    step(model, both, x, y)
                    for rate in rates:
                        rate.step()
        assert_equal_everywhere(model)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{given}: relative difference {found:.2e}"


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@case([2])
def another_optimizer_than_the_one_given() -> None:
    log = _Lines()
    logging.getLogger("gearshift").addHandler(log)
    model = make("mlp")
    model, _ = gst.distribute(model, sgd(model.parameters()))
    plain(model, sgd(model.parameters()), True)
    gs.barrier()
    gst.release(model)
    told = [line for line in log.lines if "without a step of the optimizer" in line]
    model, _ = gst.distribute(model, sgd(model.parameters()), "ps:bsp")
    with pytest.raises(gs.InvalidArgument, match="applies this rank's gradients alone"):
        plain(model, sgd(model.parameters()), True)
    gst.release(model)
    partly = sgd(model[0].parameters())
    gst.distribute(model, partly, "ps:bsp")
    gst.release(model)
    logging.getLogger("gearshift").removeHandler(log)
    assert len(told) == 1
    assert any("'2.weight' (and 3 more)" in line for line in log.lines), log.lines


class _Bounded(MLP):
    """Writes to its own parameters in each forward."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for p in self.parameters():
                p.clamp_(-10, 10)
        return super().forward(x)


@case([2])
def what_a_step_and_a_forward_change_is_nobody_elses() -> None:
    log = _Lines()
    logging.getLogger("gearshift").addHandler(log)
    model = make("mlp")
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=20)
    model, optimizer = gst.distribute(model, optimizer)
    for x, y in batches(2):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model, share(x), share(y))
            loss.backward()
            return loss

        optimizer.step(closure)
    gst.release(model)
    for strategy in ("all_reduce", "ps:bsp"):
        torch.manual_seed(0)
        model = _Bounded().double()
        model, optimizer = gst.distribute(model, sgd(model.parameters()), strategy)
        for x, y in batches(12):
            cross_entropy(model, share(x), share(y)).backward()
        optimizer.step()
        gst.release(model)
    logging.getLogger("gearshift").removeHandler(log)
    assert not [line for line in log.lines if "without a step of the optimizer" in line]


@case([2, 3])
def optimizers_that_step_within_backward() -> None:
    for first in (True, False):
        model = make("mlp")
        own = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

        def step(p: Tensor, own: dict[Tensor, torch.optim.Optimizer] = own) -> None:
            own[p].step()
            own[p].zero_grad()

        if not first:
            gst.distribute(model)
        handles = [p.register_post_accumulate_grad_hook(step) for p in model.parameters()]
        if first:
            gst.distribute(model)
        x, y = next(batches(1))
        loss = cross_entropy(model, share(x), share(y))
        with pytest.raises(gs.Unsupported, match="a hook took the gradient of"):
            loss.backward()
        for handle in handles:
            handle.remove()
        gs.barrier()
        gst.release(model)


class WideAdam(torch.optim.Optimizer):
    """Adam whose averages are in float32, whatever the parameter is."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["averages"] = [torch.zeros(p.shape) for _ in range(2)]
                mean, square = state["averages"]
                gradient = p.grad.to(torch.float32)
                mean.mul_(0.9).add_(gradient, alpha=0.1)
                square.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
                p.sub_((group["lr"] * mean / (square.sqrt() + 1e-8)).to(p.dtype))


@case([2, 3])
def state_of_a_dtype_that_is_not_the_parameters() -> None:
    """It is the same on all ranks after a new start and after a join, bit by bit."""
    model = make("mlp", torch.bfloat16)
    optimizer = WideAdam(model.parameters())
    for uneven in (0, 2):
        gst.distribute(model, optimizer)
        with gst.join(model):
            for x, y in list(batches(3 + uneven * gs.rank(), dtype=torch.bfloat16)):
                cross_entropy(model, share(x), share(y)).backward()
                optimizer.step()
                optimizer.zero_grad()
        assert_equal_everywhere(model)
        averages = [a for state in optimizer.state.values() for a in state["averages"]]
        assert {a.dtype for a in averages} == {torch.float32}
        for average in averages:
            assert torch.equal(gst.broadcast_object(average), average)
        gst.release(model)
