"""Features of PyTorch that a distributed model keeps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.utils.checkpoint
from gearshift_testing import case
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

STEPS = 20
WORLDS = (1, 2)


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


def both() -> list[gs.strategy.Strategy]:
    return [gs.AllReduce(bucket_mb=2**-10), gs.ParameterServer(bucket_mb=2**-10)]


def equal_to_alone(
    start: nn.Module,
    bound: float = 1e-12,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    **options: object,
) -> None:
    alone = reference(start, adam, lambda m, o: train(m, o, batches(STEPS), alone=True))
    for strategy in both():
        model = copy.deepcopy(start)
        outer = model if wrap is None else wrap(model)
        outer, its = gst.distribute(outer, adam(model.parameters()), strategy, **options)
        train(outer, its, batches(STEPS))
        assert_equal_everywhere(model)
        found = difference(model, alone)
        gst.release(outer)
        assert found <= bound, f"{strategy}: relative difference {found:.2e}"


@case(WORLDS)
def staging_as_on_an_accelerator() -> None:
    equal_to_alone(make("mlp"), stage="force")
    model = make("mlp")
    before = [p.data_ptr() for p in model.parameters()]
    strategy = gs.StrategySwitch(
        then=gs.ParameterServer(), policy=gs.At(step=7), back=gs.At(step=14)
    )
    model, its = gst.distribute(model, adam(model.parameters()), strategy, stage="force")
    train(model, its, batches(STEPS))
    assert [p.data_ptr() for p in model.parameters()] == before
    alone = reference(make("mlp"), adam, lambda m, o: train(m, o, batches(STEPS), alone=True))
    found = difference(model, alone)
    assert len(gst.stats(model)["switches"]) == 2
    gst.release(model)
    assert found <= 1e-12


class Checkpointed(MLP):
    reentrant = True

    def forward(self, x: Tensor) -> Tensor:
        x = self[1](self[0](x))
        x = torch.utils.checkpoint.checkpoint(
            lambda x: self[3](self[2](x)), x, use_reentrant=self.reentrant
        )
        return self[4](x)


class AllCheckpointed(MLP):
    reentrant = True

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        for layer in self:
            x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=self.reentrant)
        return x


@case(WORLDS)
def activation_checkpointing() -> None:
    for kind in (Checkpointed, AllCheckpointed):
        for reentrant in (True, False):
            torch.manual_seed(1)
            model = kind().double()
            model.reentrant = reentrant
            equal_to_alone(model)


@case(WORLDS)
def compiled_models() -> None:
    def compiled(model: nn.Module) -> nn.Module:
        return torch.compile(model, backend="aot_eager", fullgraph=True)

    equal_to_alone(make("mlp"), wrap=compiled)  # compiled, then distributed
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()))
    train(torch.compile(model, backend="aot_eager"), its, batches(STEPS))  # the other way round
    alone = reference(make("mlp"), adam, lambda m, o: train(m, o, batches(STEPS), alone=True))
    found = difference(model, alone)
    gst.release(model)
    assert found <= 1e-12


@case(WORLDS)
def autocast() -> None:
    start = make("mlp", torch.float32)

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for x, y in batches(STEPS, dtype=torch.float32):
            with torch.autocast("cpu", torch.bfloat16):
                a, b = (x, y) if alone else (share(x), share(y))
                loss = cross_entropy(model, a, b)
            its.zero_grad()
            loss.backward()
            its.step()

    alone = reference(start, lambda p: torch.optim.SGD(p, lr=0.05), lambda m, o: loop(m, o, True))
    for strategy in both():
        model = copy.deepcopy(start)
        model, its = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.05), strategy)
        loop(model, its, False)
        assert_equal_everywhere(model)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 5e-3, f"{strategy}: {found:.2e}"  # bfloat16 has 8 bits


def scaled_loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> list[float]:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    scales = []
    for k, (x, y) in enumerate(batches(STEPS)):
        a, b = (x, y) if alone else (share(x), share(y))
        loss = cross_entropy(model, a, b)
        if k % 7 == 3:
            loss = loss * float("inf")  # all ranks overflow
        its.zero_grad()
        scaler.scale(loss).backward()
        if k % 2:
            scaler.unscale_(its)
        scaler.step(its)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@case(WORLDS)
def gradient_scaling() -> None:
    scales: list[list[float]] = []
    alone = reference(make("mlp"), adam, lambda m, o: scales.append(scaled_loop(m, o, True)))
    for strategy in both():
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        scales.append(scaled_loop(model, its, False))
        assert_equal_everywhere(model)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: {found:.2e}"
    assert scales[0] == scales[1] == scales[2]


@case([2])
def overflow_on_one_rank_skips_the_step_everywhere() -> None:
    for strategy in both():
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        before = copy.deepcopy(model.state_dict())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        for x, y in batches(1):
            loss = cross_entropy(model, share(x), share(y))
            loss = loss * float("nan") if gs.rank() == 1 else loss
            its.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(its)
            scaler.update()
        same = all(torch.equal(t, before[k]) for k, t in model.state_dict().items())
        gst.release(model)
        assert same, str(strategy)
        assert scaler.get_scale() == 1.0, f"{strategy}: all ranks back off"


@case(WORLDS)
def batch_norm_statistics_are_equal_everywhere() -> None:
    for strategy in both():
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        train(model, its, batches(5))
        if isinstance(strategy, gs.AllReduce):
            assert_equal_everywhere(model)
        assert int(model[1].num_batches_tracked) == 5
        model[1].reset_running_stats()
        model[1]._buffers["running_mean"] = torch.full((8,), gs.rank() + 1.0).double()
        train(model, its, batches(1))
        mean = model[1].running_mean.clone()
        served = not isinstance(strategy, gs.AllReduce)
        gst.release(model)
        assert torch.equal(model[1].running_mean, mean) == (not served or gs.rank() == 0)
        assert_equal_everywhere(model)


@case([2])
def parameters_that_the_user_overwrites() -> None:
    """Weight clipping after each step, in place and by .data."""

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        def clip(step: int) -> None:
            with torch.no_grad():
                for p in model.parameters():
                    if step % 2:
                        p.clamp_(-0.3, 0.3)
                    else:
                        p.data = p.data.clamp(-0.25, 0.25)

        train(model, its, batches(STEPS), alone=alone, after_step=clip)

    alone = reference(make("mlp"), adam, lambda m, o: loop(m, o, True))
    for strategy in both():
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        loop(model, its, False)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: {found:.2e}"


@case([2])
def parameters_that_are_written_to_unseen() -> None:
    """Through .data and NumPy, of which PyTorch does not tell."""

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        def clip(step: int) -> None:
            for p in model.parameters():
                if step % 2:
                    p.data.clamp_(-0.3, 0.3)
                else:
                    np.clip(p.detach().numpy(), -0.25, 0.25, out=p.detach().numpy())

        train(model, its, batches(50), alone=alone, after_step=clip)

    alone = reference(make("mlp"), adam, lambda m, o: loop(m, o, True))
    for strategy in [*both(), gs.StrategySwitch(then="ps:bsp", policy=gs.At(step=3))]:
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        loop(model, its, False)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: {found:.2e}"


@case(WORLDS)
def gradients_that_the_user_changes() -> None:
    """Between backward and step, in place, replaced, removed, or made by torch.autograd.grad."""

    def loop(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        for k, (x, y) in enumerate(batches(STEPS)):
            its.zero_grad()
            a, b = (x, y) if alone else (share(x), share(y))
            loss = cross_entropy(model, a, b)
            parameters = list(model.parameters())
            if k % 4 == 3:
                for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    p.grad = g
            else:
                loss.backward()
            if k % 4 == 0:
                parameters[0].grad.mul_(0.5)
            elif k % 4 == 1:
                parameters[1].grad = parameters[1].grad * 2
            elif k % 4 == 2:
                parameters[2].grad = None
            its.step()

    alone = reference(make("mlp"), adam, lambda m, o: loop(m, o, True))
    for strategy in both():
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        loop(model, its, False)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: {found:.2e}"


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6, sparse=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding((x.abs() * 3).long().clamp(max=9)[:, 0]))


@case(WORLDS)
def sparse_gradients() -> None:
    torch.manual_seed(0)
    start = Embedded().double()

    def sgd(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    alone = reference(start, sgd, lambda m, o: train(m, o, batches(STEPS), alone=True))
    for strategy in both():
        model = copy.deepcopy(start)
        model, its = gst.distribute(model, sgd(model.parameters()), strategy)
        train(model, its, batches(STEPS))
        assert_equal_everywhere(model)
        assert model.embedding.weight.grad.is_sparse
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: {found:.2e}"


@case([2])
def momentum_of_sparse_gradients_at_a_switch() -> None:
    """It is sparse in one process, and dense on servers."""
    torch.manual_seed(0)
    start = Embedded().double()

    def sgd(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    alone = reference(start, sgd, lambda m, o: train(m, o, batches(STEPS), alone=True))
    model = copy.deepcopy(start)
    strategy = gs.StrategySwitch(then="ps:bsp", policy=gs.At(step=6), back=gs.At(step=12))
    model, its = gst.distribute(model, sgd(model.parameters()), strategy)
    train(model, its, batches(STEPS))
    assert_equal_everywhere(model)
    found = difference(model, alone)
    gst.release(model)
    assert found <= 1e-12, f"{found:.2e}"


@case(WORLDS)
def bfloat16_and_float16_train() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        for strategy in both():
            model = make("mlp", dtype)
            model, its = gst.distribute(
                model, torch.optim.SGD(model.parameters(), lr=0.01), strategy
            )
            train(model, its, batches(5, dtype=dtype))
            assert_equal_everywhere(model)
            gst.release(model)


@case([1, 2, 3])
def collectives_on_tensors() -> None:
    n, rank = gs.world_size(), gs.rank()
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int8,
        torch.uint8,
        torch.int32,
        torch.int64,
    ):
        x = torch.full((5, 3), rank + 1).to(dtype)
        assert gs.all_reduce(x) is x
        assert x.tolist() == [[n * (n + 1) / 2] * 3] * 5
        turned = torch.arange(6).reshape(2, 3).to(dtype).t()
        gs.all_reduce(turned, "max")
        assert turned.tolist() == [[0, 3], [1, 4], [2, 5]]
        gathered = gs.all_gather(torch.tensor([rank, 7]).to(dtype))
        assert gathered.dtype == dtype
        assert gathered.tolist() == [[r, 7] for r in range(n)]
        part = gs.reduce_scatter(torch.arange(2 * n).to(dtype))
        assert part.tolist() == [2 * rank * n, (2 * rank + 1) * n]
        assert gs.broadcast(torch.tensor([rank]).to(dtype), n - 1).item() == n - 1
    leaf = torch.ones(3, requires_grad=True)
    assert gs.all_reduce(leaf, "mean").tolist() == [1.0] * 3
    assert gs.all_reduce(torch.ones(()), "product").item() == 1
    mask = gs.all_gather(torch.tensor([rank == 0, True]))
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[r == 0, True] for r in range(n)]
    for bad in (torch.zeros(2, dtype=torch.complex64), torch.zeros(2, device="meta")):
        try:
            gs.all_reduce(bad)
        except TypeError:
            continue
        raise AssertionError("accepted")
    lazy = torch.tensor([1 + 2j]).conj()
    for kept in (lazy, lazy.imag):
        try:
            gs.broadcast(kept)
        except TypeError as error:
            kept = eval(str(error).split("pass ")[1], {"x": kept})
        assert gs.broadcast(kept) is kept, "what the message names works"


@case([1, 3])
def objects_are_broadcast() -> None:
    thing = {"rank": gs.rank(), "tensor": torch.full((3,), gs.rank())}
    root = gs.world_size() - 1
    got = gst.broadcast_object(thing, root)
    assert got["rank"] == root
    assert got["tensor"].tolist() == [root] * 3


@case([1, 2, 3])
def shared_tensors_are_reduced_in_place() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        x = gst.zeros(300, 70, dtype=dtype)
        assert x.shape == (300, 70)
        assert x.dtype == dtype
        x[3:] = gs.rank() + 1
        assert gs.all_reduce(x) is x
        assert x[3:].eq(gs.world_size() * (gs.world_size() + 1) // 2).all()
        assert not x[:3].any()
        gs.barrier()
    assert gst.zeros((2, 3)).shape == gst.zeros(torch.Size([2, 3])).shape == (2, 3)
    for shape in ((0,), (2, 0, 3)):
        empty = gst.zeros(*shape, dtype=torch.float64)
        assert empty.shape == shape
        assert empty.dtype == torch.float64
        assert gs.all_reduce(empty) is empty


@case(WORLDS)
def layers_unfrozen_later() -> None:
    def thaw(model: nn.Module, frozen: bool) -> None:
        model[0].requires_grad_(not frozen)

    start = make("mlp")
    thaw(start, frozen=True)
    alone, data = copy.deepcopy(start), batches(STEPS)
    optimizer = adam(alone.parameters())
    train(alone, optimizer, itertools.islice(data, 6), alone=True)
    thaw(alone, frozen=False)
    train(alone, optimizer, data, alone=True)
    switch = gs.StrategySwitch(then=gs.ParameterServer(), policy=gs.At(step=4))
    for strategy in (*both(), switch):
        model, data = copy.deepcopy(start), batches(STEPS)
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        train(model, its, itertools.islice(data, 6))
        thaw(model, frozen=False)
        gst.release(model)
        model, its = gst.distribute(model, its, strategy)
        train(model, its, data)
        assert_equal_everywhere(model)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{strategy}: relative difference {found:.2e}"


def channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


def fused(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2, fused=True)


@case(WORLDS)
def fused_optimizers_and_channels_last() -> None:
    """They want parameters, gradients and state in one memory format, and do not check it."""
    start = make("cnn")
    alone = reference(start, adam, lambda m, o: train(m, o, batches(STEPS, "cnn"), alone=True))
    for before, warm, stage in itertools.product((True, False), (0, 3), ("auto", "force")):
        if warm and stage == "force" and not before:
            continue  # the state is the user's, in another format, as it would be in one process
        model, data = copy.deepcopy(start), batches(STEPS, "cnn")
        if before:
            channels_last(model)
        its = fused(model.parameters())
        train(model, its, itertools.islice(data, warm), alone=True)
        model, its = gst.distribute(model, its, stage=stage)
        if not before:
            channels_last(model)
        train(model, its, itertools.islice(data, 3))
        state = copy.deepcopy(its.state_dict())
        for kept in state["state"].values():
            kept["exp_avg"] = kept["exp_avg"].movedim(0, -1).contiguous().movedim(-1, 0)
        its.load_state_dict(state)
        train(model, its, data)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-9, f"{before}, {warm}, {stage}: relative difference {found:.2e}"
