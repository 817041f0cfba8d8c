"""What training scripts do with a model besides training it."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import math
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

import torch
import torch.multiprocessing
from gearshift_testing import case
from gearshift_testing.training import (
    batches,
    cross_entropy,
    difference,
    make,
    reference,
    share,
    train,
)
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import gearshift as gs
import gearshift.torch as gst

STEPS = 12
WORLDS = (1, 2)


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


def compare(
    start: nn.Module, loop: Callable[[nn.Module, torch.optim.Optimizer, bool], None]
) -> None:
    """With one process, under All-Reduce, a server, and a switch there and back."""
    alone = reference(start, adam, lambda m, o: loop(m, o, True))
    switch = gs.StrategySwitch(then=gs.ParameterServer(), policy=gs.At(step=5), back=gs.At(step=9))
    for strategy in ("all_reduce", "ps:bsp", switch):
        model = copy.deepcopy(start)
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        loop(model, its, False)
        gs.barrier()
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: relative difference {found:.2e}"


class Sequences(nn.Module):
    """Classifies packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x: PackedSequence) -> Tensor:
        out, _ = self.rnn(x)
        return self.head(pad_packed_sequence(out, batch_first=True)[0].sum(1))


@case([1, 2, 3])
def packed_sequences_of_any_length() -> None:
    """Ranks have equally many sequences, of different lengths: each sequence counts once."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(3)
    n = 4 * gs.world_size()
    data = [
        (
            torch.randn(n, 7, 6, generator=generator, dtype=torch.float64),
            torch.randint(1, 8, (n,), generator=generator),
            torch.randint(0, 3, (n,), generator=generator),
        )
        for _ in range(STEPS)
    ]

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for batch in data:
            x, lengths, y = batch if alone else map(share, batch)
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            its.zero_grad()
            cross_entropy(model, x, y).backward()
            its.step()

    compare(Sequences().double(), loop)


def uneven(x: Tensor) -> Tensor:
    """This rank's part: two samples of the first one, more of the others."""
    n, size = gs.world_size(), x.size(0)
    ends = [2 + (size - 2) * r // (n - 1) for r in range(n)] if n > 1 else [size]
    return x[([0, *ends])[gs.rank()] : ends[gs.rank()]]


@case([1, 2, 3])
def gradients_of_each_sample() -> None:
    """By torch.func; where they come from counts samples by itself, or is told."""

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool, told: bool = False) -> None:
        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            out = functional_call(model, parameters, (x[None],))
            return nn.functional.cross_entropy(out, y[None])

        for x, y in batches(STEPS):
            a, b = (x, y) if alone else (uneven(x), uneven(y))
            detached = {name: p.detach() for name, p in model.named_parameters()}
            each = vmap(grad(loss), in_dims=(None, 0, 0))(detached, a, b)
            for name, p in model.named_parameters():
                p.grad = each[name].mean(0)
            if told:
                gst.samples(a.size(0))
            its.step()

    compare(make("mlp"), loop)
    compare(make("mlp"), functools.partial(loop, told=True))
    # What was told counts once: the next gradient is of as many samples as it is.
    compare(make("mlp"), lambda m, o, a: train(m, o, batches(STEPS), alone=a))
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()))
    loop(model, its, False, told=True)
    alone = copy.deepcopy(model)
    other = adam(alone.parameters())
    other.load_state_dict(copy.deepcopy(its.state_dict()))
    for x, y in batches(2):
        for m, o, a, b in ((model, its, uneven(x), uneven(y)), (alone, other, x, y)):
            o.zero_grad()
            cross_entropy(m, a, b).backward()
            o.step()
    found = difference(model, alone)
    gst.release(model)
    assert found <= 1e-12


class Tables(nn.Module):
    """Has a table that it makes anew for longer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("weights", torch.ones(1), persistent=False)
        self.register_buffer("mask", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.weights is None or self.weights.numel() < x.size(1):
            weights = torch.linspace(0.5, 1, x.size(1), dtype=x.dtype)
            self.register_buffer("weights", weights, persistent=False)
            self.mask = None
        return self.layer((x * self.weights[: x.size(1), None]).mean(1))


@case(WORLDS)
def tables_that_grow_with_the_input() -> None:
    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool, ahead: int = 0) -> None:
        for k, (x, y) in enumerate(batches(STEPS)):
            a, b = (x, y) if alone else (share(x), share(y))
            its.zero_grad()
            longer = nn.functional.pad(a[:, None], (0, 0, 0, 1 + k // 2 + ahead))
            cross_entropy(model, longer, b).backward()
            its.step()

    torch.manual_seed(0)
    start = Tables().double()
    compare(start, loop)
    model = copy.deepcopy(start)
    model, its = gst.distribute(model, adam(model.parameters()))
    loop(model, its, False, ahead=gs.rank())  # on some ranks before others
    gst.release(model)


@case(WORLDS)
def models_shared_with_other_processes() -> None:
    """Torch moves what it shares: sharing all of it, or sending it in a queue."""

    def share_it(model: nn.Module) -> None:
        model.share_memory()

    def send_it(model: nn.Module) -> None:
        ForkingPickler(io.BytesIO()).dump(model.state_dict())

    torch.manual_seed(7)
    start = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    start.eval()  # equal to one process only so
    for move in (share_it, send_it):

        def loop(
            model: nn.Module,
            its: torch.optim.Optimizer,
            alone: bool,
            move: Callable[[nn.Module], None] = move,
        ) -> None:
            data = batches(STEPS)
            for _ in range(3):
                train(model, its, itertools.islice(data, 3), alone=alone)
                move(model)
            train(model, its, data, alone=alone)

        compare(start, loop)


@case([2])
def buffers_are_shared_though_they_were_moved() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    model, its = gst.distribute(model, adam(model.parameters()))
    model.share_memory()
    train(model, its, batches(3))
    mean = model[1].running_mean.clone()
    other = gs.broadcast(mean.clone())
    gst.release(model)
    assert torch.equal(mean, other)


@case(WORLDS)
def many_models_one_after_another() -> None:
    kept = nn.Linear(6, 3).double()
    gst.distribute(kept, adam(kept.parameters()), "ps:bsp")
    for k in range(150):
        model = nn.Linear(6, 3).double()
        strategy = ("all_reduce", "ps:bsp", "ps:asp")[k % 3]
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        train(model, its, batches(1))
        gs.barrier()
        gst.release(model)
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()))
    train(model, its, batches(STEPS))
    alone = reference(make("mlp"), adam, lambda m, o: train(m, o, batches(STEPS), alone=True))
    found = difference(model, alone)
    gst.release(model)
    gst.release(kept)
    assert found <= 1e-12


@case([1])
def another_default_device() -> None:
    torch.set_default_device("meta")
    try:
        order = list(gst.DistributedSampler(range(8)))
    finally:
        torch.set_default_device(None)
    assert sorted(order) == list(range(8))


@case(WORLDS)
def losses_that_are_not_finite_are_told() -> None:
    """They are the latest, for reports and policies, and do not spoil their epoch's."""
    seen: list[tuple[float, list[float]]] = []

    def policy(metrics: object) -> bool:
        seen.append((metrics.loss, list(metrics.epoch_losses)))
        return False

    def losses(strategy: object) -> list[float]:
        found = []
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        for k, (x, y) in enumerate(batches(8)):
            loss = cross_entropy(model, share(x), share(y))
            its.zero_grad()
            loss.backward()
            bad = loss * float("nan" if gs.rank() else "inf")
            its.step(loss={3: bad, 5: None}.get(k, 2.0 if gs.rank() else 4.0), epoch=k // 4)
            gs.barrier()
            found.append(gst.stats(model)["loss"] if gs.rank() == 0 else 0.0)
        gst.release(model)
        return gst.broadcast_object(found)

    mean = 3.0 if gs.world_size() > 1 else 4.0
    for strategy in ("ps:bsp", gs.StrategySwitch(policy=policy)):
        told = losses(strategy)
        assert math.isnan(told[3 if strategy == "ps:bsp" else 4]), told
        assert math.isfinite(told[-1]), told
    assert any(math.isnan(loss) for loss, _ in seen)
    assert seen[-1][1] == [mean]


@case([2])
def empty_batches_have_no_loss() -> None:
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()), "ps:asp")
    for x, y in batches(4):
        a, b = (share(x), share(y)) if gs.rank() == 0 else (x[:0], y[:0])
        loss = cross_entropy(model, a, b)
        its.zero_grad()
        loss.backward()
        if gs.rank() == 1:
            its.zero_grad(set_to_none=False)
        its.step(loss=loss)
    gs.barrier()
    gst.release(model)
