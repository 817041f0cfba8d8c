"""Loops with other than one forward per batch: weights and the ends of epochs are still right."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import make_dataclass

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.epochs import SIZE, batches, data, loader_of, uneven
from gearshift_testing.training import assert_equal_everywhere, difference, make
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gearshift as gs
import gearshift.torch as gst

Step = Callable[[Tensor, Tensor], None]


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def two_views(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """As of contrastive learning: two forwards, one backward."""
    a, b = model(x), model(x + 0.5)
    return nn.functional.mse_loss(a, b) + nn.functional.cross_entropy(a, y)


def stepper(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> Step:
    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        loss(model, x, y).backward()
        optimizer.step()

    return step


def distributed(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = cross_entropy,
    strategy: str = "all_reduce",
) -> tuple[nn.Module, nn.Module, Step, Step]:
    """The model, a copy that is trained by one process, and a step of each."""
    alone = copy.deepcopy(model)
    model, optimizer = gst.distribute(model, sgd(model.parameters()), strategy)
    return (
        model,
        alone,
        stepper(model, optimizer, loss),
        stepper(alone, sgd(alone.parameters()), loss),
    )


def assert_as_alone(*pairs: tuple[nn.Module, nn.Module]) -> None:
    """Then release them."""
    for model, _ in pairs:
        assert_equal_everywhere(model)
    found = [difference(model, alone) for model, alone in pairs]
    for model, _ in pairs:
        gst.release(model)
    assert max(found) <= 1e-12, f"relative differences {found}"


def compare(
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    strategies: Sequence[str] = ("all_reduce", "ps:bsp"),
    workers: int = 0,
) -> None:
    dataset = uneven()
    for strategy in strategies:
        model, alone, step, single = distributed(make("mlp"), loss, strategy)
        loader = loader_of(dataset, workers)
        for epoch in range(3):
            seen = torch.zeros(1)
            for x, y in loader:
                step(x, y)
                seen += len(x)
            assert gs.all_reduce(seen).item() == len(dataset)
            assert gst.stats(model)["step"] == 3 * (epoch + 1)
            for x, y in batches(dataset):
                single(x, y)
        assert_as_alone((model, alone))


@case([2, 3])
def two_views_of_each_batch() -> None:
    compare(two_views)


@case([2])
def two_views_with_worker_processes() -> None:
    compare(two_views, ("all_reduce",), workers=2)


@case([2])
def two_backwards_for_each_batch() -> None:
    """As with a discriminator's, for real and for generated samples."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        (0.5 * cross_entropy(model, x, y)).backward()
        return cross_entropy(model, 2 * x, y)

    compare(loss, ("all_reduce",))


@case([2])
def a_loader_that_fetches_ahead() -> None:
    """The loop gets each batch before the one before has been trained on."""
    dataset = uneven()
    model, alone, step, single = distributed(make("mlp"))
    loader = loader_of(dataset)
    for _ in range(3):
        fetched = iter(loader)
        batch = next(fetched)
        while batch is not None:
            coming = next(fetched, None)
            step(*batch)
            batch = coming
        assert gs.all_reduce(torch.ones(1)).item() == gs.world_size()
        for x, y in batches(dataset):
            single(x, y)
    assert_as_alone((model, alone))


@case([2])
def evaluations_that_record_gradients() -> None:
    """On one rank only, with and without its result being kept."""
    dataset = uneven()
    other = torch.randn(100, 6, dtype=torch.float64)

    for training in (True, False):
        model, alone, step, single = distributed(make("mlp"))
        kept = []
        for _ in range(2):
            for x, y in loader_of(dataset):
                if gs.rank() == 0:
                    model.train(training)
                    model(other).mean().item()
                    kept.append(model(other))
                    model.train()
                step(x, y)
            assert gs.all_reduce(torch.ones(1)).item() == gs.world_size()
            for x, y in batches(dataset):
                single(x, y)
        assert_as_alone((model, alone))


@case([2])
def updates_by_hand() -> None:
    dataset = uneven()
    model = make("mlp")
    alone = copy.deepcopy(model)
    model, _ = gst.distribute(model)

    def step(m: nn.Module, x: Tensor, y: Tensor) -> None:
        cross_entropy(m, x, y).backward()
        with torch.no_grad():
            for p in m.parameters():
                p -= 0.1 * p.grad
                p.grad = None

    loader = loader_of(dataset)
    for _ in range(2):
        for x, y in loader:
            step(model, x, y)
        for x, y in batches(dataset):
            step(alone, x, y)
    gs.barrier()
    assert_as_alone((model, alone))


class Sample:
    """As of a library for graphs or for detection."""

    def __init__(self, x: Tensor) -> None:
        self.name = "x"
        self.x = x


Record = make_dataclass("Record", [("inputs", Sample)])


class Rows:
    """Of which nothing but the length can be seen."""

    __slots__ = ("_rows",)

    def __init__(self, x: Tensor) -> None:
        self._rows = tuple(x)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def x(self) -> Tensor:
        return torch.stack(self._rows)


class Unpacks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = make("mlp")

    def forward(self, batch: Sample | Record | Rows) -> Sample:
        inner = batch.inputs if isinstance(batch, Record) else batch
        return Sample(self.net(inner.x))


@case([2])
def inputs_that_are_no_tensors() -> None:
    x, y = data(8).tensors
    own = slice(0, 6) if gs.rank() == 0 else slice(6, 8)
    for wrap in (Sample, lambda x: Record(Sample(x)), Rows):
        model = Unpacks()
        alone = copy.deepcopy(model)
        model, _ = gst.distribute(model)
        if gs.rank() == 0:
            model(wrap(x))  # to no end
        nn.functional.cross_entropy(model(wrap(x[own])).x, y[own]).backward()
        nn.functional.cross_entropy(alone(wrap(x)).x, y).backward()
        pairs = zip(model.parameters(), alone.parameters(), strict=True)
        found = max((p.grad - q.grad).abs().max().item() for p, q in pairs)
        gst.release(model)
        assert found <= 1e-12


@case([2])
def modules_in_a_container() -> None:
    """As distribute() advises for several: the container itself is never called."""
    dataset = uneven()

    def encoded(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        parts = m if isinstance(m, nn.ModuleList) else m["parts"]
        return nn.functional.cross_entropy(parts[1](parts[0](x)), y)

    for wrap in (nn.ModuleList, lambda parts: nn.ModuleDict({"parts": nn.ModuleList(parts)})):
        layers = list(make("mlp"))
        model = wrap([nn.Sequential(*layers[:3]), nn.Sequential(*layers[3:])])
        model, alone, step, single = distributed(model, encoded)
        with pytest.raises(RuntimeError):
            encoded(model, torch.ones(2, 5), torch.zeros(2))
        for _ in range(2):
            for x, y in loader_of(dataset):
                step(x, y)
            assert gs.all_reduce(torch.ones(1)).item() == gs.world_size()
            for x, y in batches(dataset):
                single(x, y)
        assert_as_alone((model, alone))


@case([2])
def samples_that_cannot_be_counted() -> None:
    """Once, and only where nothing was said."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("gearshift").addHandler(handler)
    x, _ = data(4).tensors
    for said in (True, False):
        model, _ = gst.distribute(make("mlp"))
        for _ in range(2):
            if said:
                gst.samples(4)
            model[0](x).sum().backward()  # the model itself is not called
        gst.release(model)
        texts = [r.getMessage() for r in records if r.levelno >= logging.WARNING]
        assert len(texts) == (0 if said else 1)
    logging.getLogger("gearshift").removeHandler(handler)
    assert "gst.samples(n)" in texts[0]


@case([2])
def a_look_at_the_data_on_one_rank() -> None:
    dataset = uneven()
    model, alone, step, single = distributed(make("mlp"))
    loader = loader_of(dataset)
    if gs.rank() == 0:
        next(iter(loader))
    for _ in range(2):
        model.train()
        for x, y in loader:
            step(x, y)
        if gs.rank() == 0:
            model.eval()
            with torch.no_grad():
                assert sum(len(model(x)) for x, _ in loader) == len(loader.sampler)
            model(next(iter(loader))[0])
        for x, y in batches(dataset):
            single(x, y)
    assert gst.stats(model)["step"] == 6
    gs.barrier()
    assert_as_alone((model, alone))


class Pair:
    """A generator and a discriminator, each with its optimizer."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.g, self.d = nn.Linear(6, 6).double(), nn.Linear(6, 1).double()
        self.its_g, self.its_d = sgd(self.g.parameters()), sgd(self.d.parameters())

    def distribute(self, strategy: str) -> None:
        self.g, self.its_g = gst.distribute(self.g, self.its_g, strategy)
        self.d, self.its_d = gst.distribute(self.d, self.its_d, strategy)

    def step(self, x: Tensor) -> None:
        made = self.g(x.flip(1))
        loss = (self.d(x) - 1).square().mean() + self.d(made.detach()).square().mean()
        self.its_d.zero_grad()
        loss.backward()
        self.its_d.step()
        loss = (self.d(made) - 1).square().mean()
        self.its_g.zero_grad()
        loss.backward()
        self.its_g.step()


def compare_pairs(train: Callable[[Pair, TensorDataset], None], strategies: Sequence[str]) -> None:
    dataset = uneven()
    for strategy in strategies:
        pair, alone = Pair(), Pair()
        pair.distribute(strategy)
        for _ in range(2):
            train(pair, dataset)
            for x, _ in batches(dataset):
                alone.step(x)
        gs.barrier()
        assert_as_alone((pair.g, alone.g), (pair.d, alone.d))


@case([2, 3])
def two_models_in_one_loop() -> None:
    def train(pair: Pair, dataset: TensorDataset) -> None:
        for x, _ in loader_of(dataset):
            pair.step(x)

    compare_pairs(train, ("all_reduce", "ps:bsp"))


@case([2])
def two_models_joined_explicitly() -> None:
    def train(pair: Pair, dataset: TensorDataset) -> None:
        own = dataset.tensors[0][gs.rank() :: gs.world_size()]
        with gst.join(pair.g), gst.join(pair.d):
            for x in own.split(SIZE):
                pair.step(x)

    compare_pairs(train, ("all_reduce",))


@case([2])
def one_of_two_models_is_trained_less_often() -> None:
    """A rank may never train it in an epoch, and takes part in the others' steps all the same."""
    dataset = uneven()
    pair = Pair()
    pair.distribute("all_reduce")
    for _ in range(2):
        for k, (x, _) in enumerate(loader_of(dataset)):
            pair.its_d.zero_grad()
            with torch.no_grad():
                made = pair.g(x)
            (pair.d(x).square().mean() + (pair.d(made) - 1).square().mean()).backward()
            pair.its_d.step()
            if k == 2:
                pair.its_g.zero_grad()
                pair.d(pair.g(x)).square().mean().backward()
                pair.its_g.step()
        gs.barrier()
    assert gst.stats(pair.g)["step"] == 2
    for model in (pair.g, pair.d):
        assert_equal_everywhere(model)
    for model in (pair.g, pair.d):
        gst.release(model)


@case([2])
def lbfgs_with_different_numbers_of_batches() -> None:
    for dataset, fits in ((uneven(), False), (data(2 * SIZE * gs.world_size()), True)):
        model = make("mlp")
        model, optimizer = gst.distribute(model, torch.optim.LBFGS(model.parameters(), max_iter=2))
        loader = loader_of(dataset)

        def train(model: nn.Module = model, optimizer: torch.optim.LBFGS = optimizer) -> None:
            for x, y in loader:  # noqa: B023

                def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                    optimizer.zero_grad()
                    loss = cross_entropy(model, x, y)
                    loss.backward()
                    return loss

                optimizer.step(closure)

        if fits:
            train()
            gs.barrier()
            assert_equal_everywhere(model)
        else:
            with pytest.raises(gs.Unsupported, match="equally many batches"):
                train()
            with pytest.raises(gs.Unsupported, match="equally many batches"), gst.join(model):
                pass
        gst.release(model)
