"""Losses and layers that are of all ranks' samples together equal those of one process."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.training import (
    assert_equal_everywhere,
    difference,
    reference,
    relative,
)
from torch import Tensor, nn

import gearshift as gs
import gearshift.torch as gst

WORLDS = (1, 2, 3)
SERVED = gs.ParameterServer()
BOTH = gs.StrategySwitch(then=SERVED, policy=gs.At(step=3))
Loss = Callable[[nn.Module, Tensor, bool], Tensor]


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def sizes(step: int) -> list[int]:
    """Of the ranks' batches: uneven, and in the last steps the last ranks have none."""
    size = gs.world_size()
    return [0 if step >= 5 and r >= (size + 1) // 2 else 2 + (step + r) % 3 for r in range(size)]


def data(steps: int = 7) -> Iterator[tuple[Tensor, slice]]:
    """For each step all ranks' samples, and which of them are this rank's."""
    generator = torch.Generator().manual_seed(5)
    for step in range(steps):
        n = sizes(step)
        begin = sum(n[: gs.rank()])
        x = torch.randn(sum(n), 3, 4, 4, generator=generator, dtype=torch.float64)
        yield x + 3, slice(begin, begin + n[gs.rank()])


def compare(start: nn.Module, loss_of: Loss, bound: float = 1e-12) -> None:
    """Under All-Reduce, a server and a switch; ranks run out of batches one after another."""

    def alone(model: nn.Module, its: torch.optim.Optimizer) -> None:
        for x, _ in data():
            its.zero_grad()
            loss_of(model, x, True).backward()
            its.step()

    expected = reference(start, sgd, alone)
    for strategy in ("all_reduce", SERVED, BOTH):
        model = copy.deepcopy(start)
        if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model, its = gst.distribute(model, sgd(model.parameters()), strategy)
        with gst.join(model):
            for x, own in data():
                if own.start == own.stop:
                    break
                its.zero_grad()
                loss = loss_of(model, x[own], False)
                loss.backward()
                its.step(loss=loss)
        assert_equal_everywhere(model)
        gst.release(model)
        found = difference(model, expected)
        assert found <= bound, f"{strategy}: relative difference {found:.2e}"
        for mine, other in zip(model.buffers(), expected.buffers(), strict=True):
            assert relative(mine.double(), other.double()) <= bound


class Net(nn.Sequential):
    def __init__(self, out: int = 5) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.BatchNorm2d(4, momentum=None, affine=False),
            nn.Flatten(),
            nn.Linear(16, out),
        )


class Plain(nn.Sequential):
    def __init__(self, out: int = 5) -> None:
        super().__init__(nn.Flatten(), nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, out))


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return kind().double()


@case(WORLDS)
def batch_normalization_over_all_ranks() -> None:
    compare(made(Net), lambda model, x, alone: (model(x) ** 2 - model(x + 1)).mean())


def contrastive(model: nn.Module, x: Tensor, alone: bool) -> Tensor:
    """Each sample's two views shall be nearest to each other, among those of all ranks."""
    one, other = model(x), model(x.flip(3))
    keys, rows = other, torch.arange(len(x))
    if not alone:
        keys = gst.concat_all_gather(other)
        ranks = gst.concat_all_gather(torch.full((len(x),), gs.rank()))
        rows = (ranks == gs.rank()).nonzero().flatten()
    return nn.functional.cross_entropy(one @ keys.T, rows)


@case(WORLDS)
def contrastive_losses_over_all_ranks() -> None:
    compare(made(Plain), contrastive)


def correlation(model: nn.Module, x: Tensor, alone: bool) -> Tensor:
    """Of the features of two views, as Barlow Twins have it; the same number on all ranks."""
    one, other = model(x), model(x.flip(3))
    product, n = one.T @ other, torch.tensor(float(len(x)))
    if not alone:
        product, n = gst.all_reduce(product), gst.all_reduce(n)
    return ((product / n - torch.eye(5)) ** 2).sum()


@case(WORLDS)
def sums_over_all_ranks() -> None:
    compare(made(Plain), correlation)


def weighted(model: nn.Module, x: Tensor, alone: bool) -> Tensor:
    """A loss by its own weights: as many as the pixels above a bound."""
    weights = (x > 3).sum((1, 2, 3)).double()
    if not alone:
        gst.samples(float(weights.sum()))
    loss = (model(x) ** 2).mean(1)
    return (loss * weights).sum() / weights.sum()


@case([2, 3])
def weights_that_the_user_says() -> None:
    compare(made(Net), weighted)


@case([2])
def batches_of_no_samples() -> None:
    """A rank with an empty batch takes part, and its loss, NaN, has no weight."""
    start = made(Net)
    expected = copy.deepcopy(start)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(start))
    gst.distribute(model)
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    (expected(x) ** 2).mean().backward()
    mine = x if gs.rank() == 0 else x[:0]
    out = model(mine)
    every = gst.concat_all_gather(out)
    assert every.shape == (4, 5)
    (out**2).mean().backward()
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        assert float((p.grad - q.grad).abs().max()) < 1e-13
    gst.release(model)


@case([2])
def half_precision_and_channels_last() -> None:
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        expected = nn.BatchNorm2d(6)
        model = nn.Sequential(nn.SyncBatchNorm(6))
        if dtype == torch.bfloat16:
            model.to(dtype)
        gst.distribute(model)
        generator = torch.Generator().manual_seed(2)
        x = 10 + torch.randn(8, 6, 5, 3, generator=generator)
        g = torch.randn(8, 6, 5, 3, generator=generator)
        x = x.to(dtype).float().requires_grad_()
        (expected(x) * g).sum().backward()
        own = slice(4 * gs.rank(), 4 * gs.rank() + 4)
        mine = x[own].detach().to(dtype, memory_format=torch.channels_last).requires_grad_()
        y = model(mine)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        (y * g[own].to(dtype)).sum().backward()
        assert relative(mine.grad.float(), x.grad[own]) < bound
        assert relative(model[0].weight.grad.float() * 2, expected.weight.grad) < bound
        gst.release(model)


@case([2])
def another_default_device() -> None:
    """What travels is in host memory all the same."""
    model = nn.Sequential(nn.Linear(3, 4), nn.SyncBatchNorm(4))
    gst.distribute(model)
    x = torch.randn(2, 3)
    with torch.device("meta"):
        loss = gst.concat_all_gather(gst.all_reduce(model(x))).square().mean()
        loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    gst.release(model)


@case([1, 2])
def copies_are_ordinary_modules() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.SyncBatchNorm(4))
    gst.distribute(model)
    model(torch.randn(5, 3)).sum().backward()
    copied = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    model.eval()
    x = torch.randn(1, 3)  # one sample: not in training
    for other in (copied, loaded):
        assert type(other[1]) is nn.SyncBatchNorm
        assert torch.equal(other.eval()(x), model(x))
    gst.release(model)
    assert type(model[1]) is nn.SyncBatchNorm
    model.train()(torch.randn(2 + gs.rank(), 3))


@case(WORLDS)
def values_and_gradients() -> None:
    """Rank s's loss is (s + 1) times the sum of what all have."""
    rank, size = gs.rank(), gs.world_size()
    total = size * (size + 1) / 2
    for op in ("sum", "mean"):
        x = torch.full((2, 3), rank + 1.0, requires_grad=True)
        y = gst.all_reduce(x, op)
        share = 1 if op == "sum" else 1 / size
        assert torch.allclose(y, torch.full((2, 3), total * share))
        ((rank + 1) * y).sum().backward()
        assert torch.allclose(x.grad, torch.full((2, 3), total * share))
        assert torch.equal(x.detach(), torch.full((2, 3), rank + 1.0))
    x = torch.full((rank, 2), float(rank), requires_grad=True)
    y = gst.concat_all_gather(x)
    assert torch.equal(y[:, 0], torch.tensor([float(r) for r in range(size) for _ in range(r)]))
    ((rank + 1) * y).sum().backward()
    assert torch.allclose(x.grad, torch.full((rank, 2), total))
    for dtype in (torch.bool, torch.int64, torch.complex64, torch.bfloat16):
        x = torch.ones(2, 1, 3).to(dtype).transpose(0, 2)
        assert torch.equal(gst.concat_all_gather(x), torch.ones(3 * size, 1, 2).to(dtype))
    assert gst.concat_all_gather(torch.zeros(0, 4)).shape == (0, 4)
    assert gst.concat_all_gather(torch.zeros(2, 0)).shape == (2 * size, 0)
    assert gst.all_reduce(torch.zeros(0)).shape == (0,)
    assert int(gst.all_reduce(torch.tensor(3))) == 3 * size


@case([1])
def what_is_refused() -> None:
    for call, words in (
        (lambda: gst.all_reduce(torch.ones(2), "max"), "neither"),
        (lambda: gst.all_reduce([1.0]), "takes a tensor, not a list"),
        (lambda: gst.all_reduce(torch.tensor(2), "mean"), "torch.int64"),
        (lambda: gst.all_reduce(torch.tensor(True)), "torch.bool"),
        (lambda: gst.concat_all_gather(torch.tensor(1.0)), "no rows"),
        (lambda: gst.concat_all_gather(torch.eye(2).to_sparse()), "sparse"),
    ):
        with pytest.raises(gs.InvalidArgument, match=words):
            call()


@case([2])
def one_value_of_each_channel_is_refused() -> None:
    model = nn.Sequential(nn.SyncBatchNorm(3))
    gst.distribute(model)
    with pytest.raises(ValueError, match="more than 1 value"):
        model(torch.ones(1 - gs.rank(), 3))
    gst.release(model)


@case([2, 3])
def ranks_that_call_different_functions() -> None:
    last = gs.rank() == gs.world_size() - 1
    with pytest.raises(gs.MismatchError, match=r"[37] elements of float32.*[37] elements"):
        gst.all_reduce(torch.ones(7 if last else 3))
    with pytest.raises(gs.MismatchError, match="a concatenation of the ranks' rows"):
        gst.concat_all_gather(torch.ones(2)) if last else gst.all_reduce(torch.ones(1))
    assert float(gst.all_reduce(torch.ones(1))) == gs.world_size()  # nothing is lost by it


@case([2, 3])
def a_rank_without_any_batch() -> None:
    """It never calls what the others do, and takes part all the same."""
    model = made(Net)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model, its = gst.distribute(model, sgd(model.parameters()))
    held = list(range(gs.world_size() - 1))  # a sample for each rank but the last
    for i in torch.utils.data.DataLoader(held, sampler=gst.DistributedSampler(held)):
        x = torch.full((2, 3, 4, 4), float(i), dtype=torch.float64)
        x[0] += 1
        loss = contrastive(model, x, False)
        its.zero_grad()
        loss.backward()
        its.step(loss=loss)
    assert_equal_everywhere(model)
    assert gst.stats(model)["step"] == 1
    gst.release(model)
