"""Lightning's Trainer with GearshiftStrategy equals one process, which trains without either."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from gearshift_testing import case
from gearshift_testing.training import MLP, assert_equal_everywhere, difference, make
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gearshift as gs
import gearshift.torch as gst
from gearshift.torch.lightning import GearshiftStrategy

Batch = tuple[Tensor, Tensor]
EXACT = 1e-11
ROWS = 6
STEPS = 8


class Module(pl.LightningModule):
    """Its own forward is never called: the loss comes from a part of it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        self.log("validation", self.loss(batch), sync_dist=True)

    def predict_step(self, batch: Batch, index: int) -> Tensor:
        return self.net(batch[0])

    def loss(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.7)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Called(Module):
    """Calls its own forward, twice, and another part beside it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Batch) -> Tensor:
        x, y = batch
        return (nn.functional.cross_entropy(self(x), y) + super().loss((self.same(x), y))) / 2

    def same(self, x: Tensor) -> Tensor:
        return self(x).sum() * 0 + x


def trainer(strategy: str | gs.StrategySwitch, **more: Any) -> pl.Trainer:
    return plain_trainer(GearshiftStrategy(strategy), **more)


def plain_trainer(strategy: Any, **more: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    usual = {"max_epochs": 1, "use_distributed_sampler": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", strategy=strategy, **{**quiet, **usual, **more})


def batches(steps: int = STEPS) -> list[Batch]:
    """Of all ranks together; the higher the rank, the more rows are its own."""
    rows, seeded = sum(sizes()), torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(rows, 6, generator=seeded, dtype=torch.float64),
            torch.randint(0, 3, (rows,), generator=seeded),
        )
        for _ in range(steps)
    ]


def sizes() -> list[int]:
    return [ROWS + 2 * rank for rank in range(gs.world_size())]


def own(whole: Sequence[Batch]) -> DataLoader[Any]:
    """This rank's part of each."""
    parts = [(x.split(sizes())[gs.rank()], y.split(sizes())[gs.rank()]) for x, y in whole]
    return DataLoader(parts, batch_size=None)  # type: ignore[arg-type]


def alone(
    net: nn.Module, data: Sequence[Batch], clip: float | None = None, accumulated: int = 1
) -> nn.Module:
    """A copy, trained by one process on everything."""
    model = copy.deepcopy(net)
    (its,), (scheduled,) = Module(model).configure_optimizers()
    for first in range(0, len(data), accumulated):
        its.zero_grad()
        for x, y in data[first : first + accumulated]:
            (nn.functional.cross_entropy(model(x), y) / accumulated).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        its.step()
        scheduled["scheduler"].step()
    return model


def fit(net: nn.Module, strategy: str, data: Sequence[Batch], **more: Any) -> pl.Trainer:
    fitted = trainer(strategy, **more)
    fitted.fit(Module(net), own(data))
    return fitted


def equals(strategy: str, *, clip: float | None = None, accumulated: int = 1) -> None:
    net, data = make("mlp"), batches()
    expected = alone(net, data, clip, accumulated)
    options = {"gradient_clip_val": clip, "accumulate_grad_batches": accumulated}
    fitted = fit(net, strategy, data, **options)
    assert (fitted.world_size, fitted.global_rank) == (gs.world_size(), gs.rank())
    assert fitted.global_step == STEPS // accumulated
    assert_equal_everywhere(net)
    assert difference(net, expected) < EXACT


@case([1, 2, 3])
def all_reduce() -> None:
    equals("all_reduce")


@case([2])
def all_reduce_accumulates_and_clips() -> None:
    equals("all_reduce", clip=0.3, accumulated=2)


@case([2, 3])
def parameter_server() -> None:
    equals("ps:bsp", clip=0.3)


@case([2])
def parameter_server_accumulates() -> None:
    equals("ps:bsp(shards=2)", accumulated=2)


@case([2])
def strategy_switch() -> None:
    """At a fraction of the steps that the Trainer estimates."""
    net, data, log = make("mlp"), batches(), []

    class Watching(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            log.extend(gst.stats(module)["switches"])

    expected = alone(net, data)
    fit(net, "switch(then=ps:bsp, at=0.5)", data, callbacks=[Watching()])
    assert [entry["step"] for entry in log] == [STEPS // 2]
    assert difference(net, expected) < EXACT


@case([2])
def plateau_counts_epochs() -> None:
    """Which the Trainer tells."""
    net, epochs = make("mlp"), []

    def policy(seen: Any) -> bool:
        epochs.append(seen.epoch)
        return False

    fitted = trainer(gs.StrategySwitch(policy=policy), max_epochs=3)
    fitted.fit(Module(net), own(batches(2)))
    assert sorted(set(epochs)) == [0, 1, 2]


@case([3])
def asynchronous_ends_alike() -> None:
    net = make("mlp")
    before = copy.deepcopy(net)
    fit(net, "ps:asp", batches())
    assert_equal_everywhere(net)
    assert difference(net, before) > 1e-3


@case([2])
def local_sgd_ends_with_a_round() -> None:
    """With the last step, so that callbacks find the model of all."""
    net = make("mlp")

    class Watching(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            assert_equal_everywhere(module)

    fit(net, "local_sgd(3)", batches(), callbacks=[Watching()])


@case([2])
def sampler_and_metrics() -> None:
    """Lightning deals out the samples; what ranks log is averaged."""
    net = make("mlp")
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(2))
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    module = Module(net)
    fitted = trainer("all_reduce", use_distributed_sampler=True, max_epochs=2)
    fitted.fit(module, loader, DataLoader(TensorDataset(x, y), batch_size=10))
    assert fitted.global_step == 4
    with torch.no_grad():
        loss = module.loss((x, y))
    logged = fitted.callback_metrics["validation"]
    assert abs(float(logged) - float(loss)) < 1e-5
    whole = DataLoader(TensorDataset(x, y), batch_size=5)
    (outcome,) = fitted.validate(module, whole, verbose=False)
    assert abs(outcome["validation"] - float(loss)) < 1e-5
    rows = torch.cat(fitted.predict(module, whole))
    assert len(rows) == 10


@case([2])
def batch_normalization_over_all_ranks() -> None:
    """Lightning converts the module, and says nothing more about it."""
    net = nn.Sequential(nn.BatchNorm1d(6), make("mlp")).double()
    data = batches()
    expected = alone(net, data)
    fitted = plain_trainer(GearshiftStrategy("all_reduce"), sync_batchnorm=True)
    module = Module(net)
    fitted.fit(module, own(data))
    trained = module.net
    assert difference(trained, expected) < EXACT
    assert torch.allclose(trained[0].running_var, expected[0].running_var, rtol=EXACT)


@case([2, 3])
def module_that_calls_itself() -> None:
    net, data = make("mlp"), batches()
    expected = alone(net, data)
    trainer("all_reduce").fit(Called(net), own(data))
    assert difference(net, expected) < EXACT


@case([2])
def sampler_of_gearshift_repeats_nothing() -> None:
    """With 7 samples for two ranks, 3 batches of one and 4 of the other."""
    for kind in (Module, Called):
        repeats_nothing(kind)


def repeats_nothing(kind: type[Module]) -> None:
    net = make("mlp")
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.randint(0, 3, (7,), generator=torch.Generator().manual_seed(2))
    expected = alone(net, [(x[i : i + 2], y[i : i + 2]) for i in range(0, 7, 2)] * 2)
    dataset = TensorDataset(x, y)
    sampler = gst.DistributedSampler(dataset, shuffle=False)
    fitted = trainer("all_reduce", max_epochs=2)
    fitted.fit(kind(net), DataLoader(dataset, batch_size=1, sampler=sampler))
    assert_equal_everywhere(net)
    assert difference(net, expected) < EXACT


@case([2])
def checkpoint_resumes() -> None:
    """Under a server, which has the momentum."""
    whole = batches()
    expected = alone(make("mlp"), [*whole[:4], *whole[4:]])
    folder = gst.broadcast_object(tempfile.mkdtemp() if gs.rank() == 0 else None)
    saver = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)
    more = {"callbacks": [saver], "enable_checkpointing": True}
    fit(make("mlp"), "ps:bsp", whole[:4], **more)
    net = make("mlp")
    torch.nn.init.zeros_(net[0].weight)
    resumed = trainer("ps:bsp", max_epochs=2)
    resumed.fit(Module(net), own(whole[4:]), ckpt_path=str(Path(folder) / "last.ckpt"))
    assert difference(net, expected) < EXACT


class Weighted(Module):
    def training_step(self, batch: Batch, index: int) -> Tensor:
        gst.samples(1 + 2 * gs.rank())
        return super().training_step(batch, index)


@case([2])
def samples_are_what_the_step_says() -> None:
    net, data = make("mlp"), batches()
    expected = copy.deepcopy(net)
    (its,), (scheduled,) = Module(expected).configure_optimizers()
    for x, y in data:
        its.zero_grad()
        for rank, part in enumerate(zip(x.split(sizes()), y.split(sizes()), strict=True)):
            (Module(expected).loss(part) * (1 + 2 * rank) / 4).backward()
        its.step()
        scheduled["scheduler"].step()
    trainer("all_reduce").fit(Weighted(net), own(data))
    assert difference(net, expected) < EXACT


@case([2])
def module_is_fitted_again() -> None:
    """With momentum and rate from the start; in between it is an ordinary one."""
    net, data = make("mlp"), batches()
    expected = alone(alone(net, data), data)
    module = Module(net)
    for strategy in ("ps:bsp", "all_reduce"):
        trainer(strategy).fit(module, own(data))
        copy.deepcopy(module)
    assert difference(net, expected) < EXACT


class Pair(pl.LightningModule):
    """Two parts with an optimizer each, in turn, as in a GAN."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = nets

    def training_step(self, batch: Batch, index: int) -> None:
        losses = (self.first_loss, self.second_loss)
        for optimizer, loss in zip(self.optimizers(), losses, strict=True):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss(batch))
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def first_loss(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self.first(batch[0]), batch[1])

    def second_loss(self, batch: Batch) -> Tensor:
        target = self.first(batch[0]).softmax(1)
        return (self.second(batch[0]).softmax(1) - target).square().mean()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.first, self.second)]


@case([2])
def two_optimizers() -> None:
    pair, data = Pair([make("mlp"), make("mlp")]), batches()
    single = copy.deepcopy(pair)
    its = single.configure_optimizers()
    for batch in data:
        for optimizer, loss in zip(its, (single.first_loss, single.second_loss), strict=True):
            single.zero_grad()
            loss(batch).backward()
            optimizer.step()
    trainer("all_reduce").fit(pair, own(data))
    assert_equal_everywhere(pair)
    assert difference(pair, single) < EXACT


class Entwined(Pair):
    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        everything = list(self.parameters())
        return [torch.optim.SGD(everything[::2], 0.1), torch.optim.SGD(everything[1::2], 0.1)]


@case([2])
def entwined_optimizers_are_refused() -> None:
    with pytest.raises(gs.Unsupported, match=r"'first\.0\.weight' is in a module with"):
        trainer("all_reduce").fit(Entwined([MLP(), MLP()]), own(batches()))


@case([2])
def by_name() -> None:
    net, data = make("mlp"), batches()
    expected = alone(net, data)
    named = plain_trainer("gearshift")
    named.fit(Module(net), own(data))
    assert difference(net, expected) < EXACT
    assert dist.get_backend() == "gearshift"
