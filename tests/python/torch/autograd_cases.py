"""Gradients that come by other ways than one plain backward: each equals one process."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.utils.checkpoint
from gearshift_testing import case
from gearshift_testing.training import (
    MakeOptimizer,
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

STEPS = 20
WORLDS = (1, 2)
Loop = Callable[[nn.Module, torch.optim.Optimizer, bool], None]


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def both() -> list[gs.strategy.Strategy]:
    return [gs.AllReduce(bucket_mb=2**-10), gs.ParameterServer(bucket_mb=2**-10)]


def all_reduce() -> list[gs.strategy.Strategy]:
    return both()[:1]


def equal_to_alone(
    start: nn.Module,
    loop: Loop,
    strategies: list[gs.strategy.Strategy],
    optimizer: MakeOptimizer = sgd,
    bound: float = 1e-12,
    **options: object,
) -> None:
    """Train by `loop(model, optimizer, alone)` distributed and alone, and compare."""
    alone = reference(start, optimizer, lambda m, o: loop(m, o, True))
    for strategy in strategies:
        model = copy.deepcopy(start)
        model, its = gst.distribute(model, optimizer(model.parameters()), strategy, **options)
        loop(model, its, False)
        assert_equal_everywhere(model)
        found = difference(model, alone)
        gst.release(model)
        assert found <= bound, f"{strategy}: relative difference {found:.2e}"


def plain(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
    train(model, its, batches(STEPS), alone=alone)


class Reused(nn.Module):
    """One layer in several checkpointed parts, and after them, where `tied`."""

    def __init__(self, uses: int, tied: bool = False) -> None:
        super().__init__()
        self.uses, self.tied = uses, tied
        self.first, self.layer, self.last = nn.Linear(6, 40), nn.Linear(40, 40), nn.Linear(40, 3)

    def part(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.uses):
            x = torch.utils.checkpoint.checkpoint(self.part, x, use_reentrant=True)
        return self.last(self.layer(x) if self.tied else x)


@case(WORLDS)
def modules_that_several_checkpointed_parts_use() -> None:
    """Each part has a backward of its own, which adds to the gradient."""
    torch.manual_seed(3)
    for uses, tied in ((1, False), (3, False), (2, True)):
        for stage in ("auto", "force"):
            equal_to_alone(Reused(uses, tied).double(), plain, both(), stage=stage)


@case(WORLDS)
def modules_that_come_to_be_used_more_often() -> None:
    """At first only the end of backward tells that no more of a gradient will come."""

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        def use(step: int) -> None:
            model.uses = 1 + (step % 5 > 2)

        use(0)
        train(model, its, batches(STEPS), alone=alone, after_step=use)

    torch.manual_seed(3)
    equal_to_alone(Reused(1).double(), loop, both())


@case([2])
def modules_that_are_used_more_often_too_late() -> None:
    torch.manual_seed(3)
    model = Reused(1).double()
    model, its = gst.distribute(model, sgd(model.parameters()), all_reduce()[0])
    train(model, its, batches(STEPS))
    model.uses = 2
    loss = cross_entropy(model, *map(share, next(batches(1))))
    with pytest.raises(gs.Unsupported, match=r"'layer.*use_reentrant=False"):
        loss.backward()
    gs.barrier()
    gst.release(model)


def set_gradients(loss: Tensor, parameters: list[nn.Parameter]) -> None:
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.grad = gradient


def closures(way: str) -> Loop:
    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for x, y in batches(STEPS):
            a, b = (x, y) if alone else (share(x), share(y))
            its.step(functools.partial(closure, model, its, a, b, "plain" if alone else way))

    return loop


def closure(model: nn.Module, its: torch.optim.Optimizer, x: Tensor, y: Tensor, way: str) -> Tensor:
    its.zero_grad()
    loss = cross_entropy(model, x, y)
    if way == "grad":
        set_gradients(loss, list(model.parameters()))
    else:
        with gst.no_sync(model) if way == "no_sync" else contextlib.nullcontext():
            loss.backward()
    return loss


@case(WORLDS)
def closures_that_make_gradients_in_other_ways() -> None:
    for way in ("plain", "grad", "no_sync"):
        equal_to_alone(make("mlp"), closures(way), both())


@case(WORLDS)
def closures_that_only_give_the_loss() -> None:
    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for x, y in batches(STEPS):
            a, b = (x, y) if alone else (share(x), share(y))
            loss = closure(model, its, a, b, "plain")
            model[0].weight.grad.mul_(0.5)
            its.step(lambda loss=loss: loss)

    equal_to_alone(make("mlp"), loop, both())


@case(WORLDS)
def line_searches_on_gradients_that_were_set() -> None:
    def lbfgs(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)

    # It divides by differences of gradients, which magnifies rounding.
    equal_to_alone(make("mlp"), closures("grad"), all_reduce(), lbfgs, bound=1e-9)


class Scaled(nn.Module):
    """Its scale is trained on another loss, or by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.body = make("mlp")
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x: Tensor, fixed: bool = True) -> Tensor:
        return self.body(x) * (self.scale.detach() if fixed else self.scale)


@case(WORLDS)
def gradients_set_beside_those_of_backward() -> None:
    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for step, (x, y) in enumerate(batches(STEPS)):
            a, b = (x, y) if alone else (share(x), share(y))
            its.zero_grad()
            cross_entropy(model, a, b).backward()
            if step % 3:
                set_gradients(nn.functional.cross_entropy(model(a, False), b), [model.scale])
            its.step()

    equal_to_alone(Scaled(), loop, both())


@case([2])
def gradients_set_by_one_rank_alone() -> None:
    model = Scaled()
    model, its = gst.distribute(model, sgd(model.parameters()), all_reduce()[0])
    x, y = next(batches(1))
    cross_entropy(model, x, y).backward()
    if gs.rank() == 0:
        model.scale.grad = torch.ones_like(model.scale)
        with pytest.raises(gs.MismatchError, match=r"'scale' was given a gradient"):
            its.step()
    else:
        its.step()
        with pytest.raises(gs.MismatchError, match="different numbers of optimizer steps"):
            cross_entropy(model, x, y).backward()
    gs.barrier()
    gst.release(model)


def halve(parameter: nn.Parameter) -> None:
    parameter.grad.mul_(0.5)


def replace_by_half(parameter: nn.Parameter) -> None:
    parameter.grad = parameter.grad * 0.5


@case(WORLDS)
def hooks_that_change_gradients() -> None:
    """They come before the exchange, whenever they were registered."""

    def hooked(
        model: nn.Module, call: Callable[[nn.Parameter], None], at: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        handles = []
        for k, (x, y) in enumerate(batches(STEPS)):
            if k == at:
                handles = [p.register_post_accumulate_grad_hook(call) for p in model.parameters()]
            yield x, y
        for handle in handles:
            handle.remove()

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for call in (halve, replace_by_half):
            train(model, its, hooked(model, call, 0), alone=alone)
            train(model, its, hooked(model, call, 5), alone=alone)

    def in_parts(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        """Nothing tells of such a backward before the first gradient is there."""
        for call in (halve, replace_by_half):
            for x, y in hooked(model, call, 3):
                its.zero_grad()
                a, b = (x, y) if alone else (share(x), share(y))
                for layer in model:
                    a = layer(a)
                nn.functional.cross_entropy(a, b).backward()
                its.step()

    for run in (loop, in_parts):
        for stage in ("auto", "force"):
            equal_to_alone(make("mlp"), run, both(), stage=stage)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

    def forward(self, x: Tensor, head: int) -> Tensor:
        return self.heads[head](torch.tanh(self.body(x)))


@case(WORLDS)
def gradients_kept_over_zero_grad() -> None:
    """Of several losses, to be combined: a head has a gradient of one of them only."""

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        parameters = list(model.parameters())
        for x, y in batches(STEPS):
            a, b = (x, y) if alone else (share(x), share(y))
            kept = []
            for head in range(2):
                its.zero_grad()
                nn.functional.cross_entropy(model(a, head), b).backward()
                kept.append([p.grad for p in parameters])
            for p, one, other in zip(parameters, *kept, strict=True):
                found = [g for g in (one, other) if g is not None]
                p.grad = sum(found[1:], 2 * found[0])
            its.step()

    torch.manual_seed(3)
    for stage in ("auto", "force"):
        equal_to_alone(TwoHeads().double(), loop, both(), stage=stage)


@case([2])
def gradients_kept_while_others_go_on() -> None:
    model = make("mlp")
    model, its = gst.distribute(model, sgd(model.parameters()), all_reduce()[0])
    with gst.join(model):
        for x, y in list(batches(2 + 2 * gs.rank())):
            its.zero_grad()
            cross_entropy(model, share(x), share(y)).backward()
            kept = [p.grad for p in model.parameters()]
            before = [p.grad.clone() for p in model.parameters()]
            its.step()
        its.zero_grad()
    gst.release(model)
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))


def penalised(model: nn.Module, x: Tensor, y: Tensor, gradients: list[Tensor]) -> Tensor:
    return cross_entropy(model, x, y) + 0.5 * sum((g**2).sum() for g in gradients)


@case(WORLDS)
def gradients_with_a_graph() -> None:
    """Under All-Reduce with several workers, only those that are not exchanged have one."""

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        parameters = list(model.parameters())
        own = alone or gs.world_size() == 1 or "server" in gst.stats(model)["strategy"]
        for x, y in batches(STEPS):
            n = gs.world_size() if alone else 1
            a, b = (x, y) if alone else (share(x), share(y))
            losses = []
            for part in zip(a.chunk(n), b.chunk(n), strict=True):
                its.zero_grad()
                with contextlib.nullcontext() if own else gst.no_sync(model):
                    cross_entropy(model, *part).backward(create_graph=True)
                losses.append(penalised(model, *part, [p.grad for p in parameters]))
            its.zero_grad()
            (sum(losses) / n).backward()
            its.step()

    for stage in ("auto", "force"):
        equal_to_alone(make("mlp"), loop, both(), stage=stage)


@case([2])
def graphs_that_an_exchange_would_cut() -> None:
    model, _ = gst.distribute(make("mlp"))
    loss = cross_entropy(model, *map(share, next(batches(1))))
    with pytest.raises(gs.Unsupported, match=r"autograd\.grad\(loss, parameters, create_graph"):
        loss.backward(create_graph=True)
    gs.barrier()
    gst.release(model)


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.bags = nn.Embedding(9, 4, sparse=True), nn.EmbeddingBag(9, 4, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.words(x) + self.bags(x[:, None])


@case(WORLDS)
def sparse_gradients_that_a_rank_has_none_of() -> None:
    """What it gets from the others is sparse from the first step on, as SparseAdam demands."""

    def adam(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SparseAdam(list(parameters), lr=0.1)

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for step in range(6):
            its.zero_grad()
            if alone or gs.rank() == 0 or step > 2:
                x = torch.arange(4) + step % 5
                gst.samples(4 if gs.rank() == 0 else 2)
                model(x).pow(2).sum().backward()
            else:
                gst.samples(0)
            its.step()

    torch.manual_seed(3)
    for stage in ("auto", "force"):
        equal_to_alone(Vectors().double(), loop, all_reduce(), adam, stage=stage)


@case(WORLDS)
def gradients_that_are_thrown_away() -> None:
    """Their samples have no weight in what comes after, and it is exchanged however it is made."""

    def uneven(x: Tensor, step: int) -> Tensor:
        cut = 1 + 5 * (step % 2) if gs.world_size() > 1 else 0
        return x[:cut] if gs.rank() == 0 and cut else x[cut:]

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for to_none in (True, False):
            for step, (x, y) in enumerate(batches(STEPS)):
                a, b = (x, y) if alone else (uneven(x, step), uneven(y, step))
                loss = cross_entropy(model, a, b)
                with contextlib.nullcontext() if alone or step % 3 else gst.no_sync(model):
                    loss.backward(retain_graph=True)
                its.zero_grad(set_to_none=to_none)
                x, y = x.flip(0), y.flip(0)
                a, b = (x, y) if alone else (uneven(x, step + 1), uneven(y, step + 1))
                loss = cross_entropy(model, a, b)
                if step % 4:
                    loss.backward()
                else:
                    set_gradients(loss, list(model.parameters()))
                its.step()
                its.zero_grad(set_to_none=to_none)

    equal_to_alone(make("mlp"), loop, both())
