"""Learning-rate schedules, gradient scalers and kept gradients where ranks' batches differ."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from gearshift_testing import case
from gearshift_testing.training import assert_equal_everywhere, difference, make
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import gearshift as gs
import gearshift.torch as gst

EPOCHS = 3
SIZE = 17  # two ranks, batches of 4: rank 0 has three of them, rank 1 two

Make = Callable[[torch.optim.Optimizer], LRScheduler]


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SIZE, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(0, 3, (SIZE,), generator=generator))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def warm_up_and_decay(optimizer: torch.optim.Optimizer) -> LRScheduler:
    first = LinearLR(optimizer, 0.2, total_iters=4)
    then = CosineAnnealingLR(optimizer, T_max=6)
    return SequentialLR(optimizer, [first, then], milestones=[4])


SCHEDULES: dict[str, Make] = {
    "lambda": lambda o: LambdaLR(o, lambda k: 1 / (1 + k)),
    "sequence": warm_up_and_decay,
}


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, schedule: LRScheduler, x: Tensor, y: Tensor
) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    schedule.step()


def alone(schedule_of: Make) -> nn.Module:
    """One process: in each step the batches of both ranks, where there are two."""
    model = make("mlp")
    optimizer = sgd(model)
    schedule = schedule_of(optimizer)
    x, y = data().tensors
    per_rank = [list(zip(x[r::2].split(4), y[r::2].split(4), strict=True)) for r in (0, 1)]
    for _ in range(EPOCHS):
        for k in range(3):
            parts = [batches[k] for batches in per_rank if k < len(batches)]
            step(model, optimizer, schedule, *(torch.cat([p[i] for p in parts]) for i in (0, 1)))
    return model


@case([2])
def schedules_by_steps_are_those_of_one_process() -> None:
    dataset = data()
    for name, schedule_of in SCHEDULES.items():
        wanted = alone(schedule_of)
        for strategy in ("all_reduce", "ps:bsp", "switch(at=5)", "at the end of an epoch"):
            model = make("mlp")
            optimizer = sgd(model)
            schedule = schedule_of(optimizer)
            then = {
                "switch(at=5)": gs.StrategySwitch(policy=gs.At(step=5), then="ps:bsp"),
                "at the end of an epoch": gs.StrategySwitch("ps:bsp", "all_reduce", gs.At(step=3)),
            }
            model, optimizer = gst.distribute(model, optimizer, then.get(strategy, strategy))
            sampler = gst.DistributedSampler(dataset, shuffle=False)
            for _ in range(EPOCHS):
                for x, y in DataLoader(dataset, batch_size=4, sampler=sampler):
                    step(model, optimizer, schedule, x, y)
            assert_equal_everywhere(model)
            found = difference(model, wanted)
            gst.release(model)
            assert found <= 1e-12, f"{name}, {strategy}: relative difference {found:.2e}"
            assert schedule.last_epoch == 3 * EPOCHS


@case([2, 3])
def averages_are_those_of_one_process() -> None:
    """Rank 0 may have more batches than the others, or fewer."""
    for fewer in (0, 1):
        x, y = data().tensors
        per_rank = [list(zip(x.split(4), y.split(4), strict=True))[: 3 - (r == fewer)]
                    for r in range(gs.world_size())]  # fmt: skip
        alone = make("mlp")
        its = sgd(alone)
        wanted = AveragedModel(alone, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        for k in [*range(3), *range(3)]:
            parts = [batches[k] for batches in per_rank if k < len(batches)]
            xs, ys = (torch.cat([p[i] for p in parts]) for i in (0, 1))
            its.zero_grad()
            nn.functional.cross_entropy(alone(xs), ys).backward()
            its.step()
            wanted.update_parameters(alone)
        for strategy in ("all_reduce", "ps:bsp"):
            model = make("mlp")
            model, its = gst.distribute(model, sgd(model), strategy)
            average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
            for _ in range(2):
                with gst.join(model):
                    for xs, ys in per_rank[gs.rank()]:
                        its.zero_grad()
                        nn.functional.cross_entropy(model(xs), ys).backward()
                        its.step()
                        average.update_parameters(model)
            gst.release(model)
            assert difference(average, wanted) <= 1e-12
            assert int(average.n_averaged) == 6


@case([2, 3])
def two_of_a_name_are_told_apart_where_one_rank_collects_garbage() -> None:
    """Between the making of the two: the collector lists them in another order then."""
    x, y = data().tensors
    model = make("mlp")
    model, optimizer = gst.distribute(model, sgd(model))
    averages, steps, sequences, scalers = [], [], [], []
    gc.disable()  # so that it runs when it is told to, and the order of no rank changes back
    for decay, milestone in ((0.1, 3), (0.999, 90)):
        averages.append(AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)))
        steps.append(MultiStepLR(optimizer, [milestone], gamma=0.5))
        # Unlike others it does not call __init__ of LRScheduler.
        both = [LinearLR(optimizer), LinearLR(optimizer)]
        sequences.append(SequentialLR(optimizer, both, [milestone]))
        scalers.append(torch.amp.GradScaler("cpu", growth_interval=milestone))
        scalers[-1].scale(torch.ones(1))
        if gs.rank() == 0 and decay == 0.1:
            gc.collect()
    with gst.join(model):
        for _ in range(8 if gs.rank() == 0 else 5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            for schedule in steps:
                schedule.step()
            for average in averages:
                average.update_parameters(model)
    gc.enable()
    for average in averages:
        assert_equal_everywhere(average)
    near, far = (difference(average, model) for average in averages)
    gst.release(model)
    assert near < far
    assert [dict(s.milestones) for s in steps] == [{3: 1}, {90: 1}]
    assert [s.last_epoch for s in steps] == [8, 8]
    assert [s._milestones for s in sequences] == [[3], [90]]
    assert [s.get_growth_interval() for s in scalers] == [3, 90]


class Trainer:
    """Of a model with all that counts its steps; refers to itself, as by a callback of its own."""

    def __init__(self) -> None:
        model = make("mlp")
        self.model, self.optimizer = gst.distribute(model, sgd(model))
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
        self.itself = self

    def train(self, steps: int, rate: float) -> None:
        x, y = data().tensors
        self.optimizer.param_groups[0]["lr"] = rate
        with gst.join(self.model):
            for _ in range(steps):
                self.optimizer.zero_grad()
                loss = nn.functional.cross_entropy(self.model(x), y)
                self.scaler.scale(loss).backward()
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.average.update_parameters(self.model)
        gst.release(self.model)


@case([2])
def what_is_dead_is_not_taken_for_its_successor() -> None:
    """Of the trainings of a cross-validation, say, only rank 1 has collected the first."""
    gc.collect()
    gc.disable()
    Trainer().train(3, 0.001)
    if gs.rank() == 1:
        gc.collect()
    second = Trainer()
    second.train(7 - gs.rank(), 0.1)
    gc.enable()
    scales = gs.all_gather(torch.tensor([second.scaler.get_scale()]))
    average = torch.nn.utils.parameters_to_vector(second.average.parameters()).detach()
    averages = gs.all_gather(average)
    assert scales.tolist() == [[16.0], [16.0]]
    assert torch.equal(averages[0], averages[1])


@case([2])
def what_the_garbage_collector_froze_is_followed() -> None:
    """As before worker processes are forked, to keep their pages shared."""
    x, y = data().tensors
    model = make("mlp")
    model, optimizer = gst.distribute(model, sgd(model))
    schedule = MultiStepLR(optimizer, [6], gamma=0.5)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    gc.freeze()
    for epoch in (1, 2):
        with gst.join(model):
            for _ in range(3 - gs.rank()):
                step(model, optimizer, schedule, x, y)
                average.update_parameters(model)
        assert schedule.last_epoch == int(average.n_averaged) == 3 * epoch
        assert_equal_everywhere(average)
    gc.unfreeze()
    gst.release(model)


@case([2])
def gradient_scalers_grow_in_step() -> None:
    model = nn.Linear(6, 3)
    model, optimizer = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4, growth_interval=4)
    x = torch.ones(2, 6)
    for _ in range(3):
        with gst.join(model):
            for _ in range(3 - gs.rank()):
                optimizer.zero_grad()
                scaler.scale(model(x).square().mean()).backward()
                scaler.step(optimizer)
                scaler.update()
    scales = gst.broadcast_object(scaler.state_dict())
    gst.release(model)
    assert scaler.state_dict() == scales
    assert scaler.get_scale() == 16


@case([2, 3])
def steps_that_one_rank_leaves_out_are_an_error() -> None:
    model = make("mlp")
    model, optimizer = gst.distribute(model, sgd(model))
    x, y = data().tensors
    error = ""
    try:
        for k in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if k != 1 or gs.rank() != 1:
                optimizer.step()
    except gs.MismatchError as caught:
        error = str(caught)
    assert "different numbers of optimizer steps" in error
    assert ("this one 1," if gs.rank() == 1 else "this one 2,") in error
    assert k == 2


@case([2])
def rates_that_differ_between_ranks_are_an_error() -> None:
    model = make("mlp")
    model, optimizer = gst.distribute(model, sgd(model))
    x, y = data().tensors
    error = ""
    try:
        for k in range(4):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + k * (1 + gs.rank()))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    except gs.MismatchError as caught:
        error = str(caught)
    assert "ranks applied step 2 with different optimizer settings" in error, error


@case([2])
def gradients_that_are_kept_are_not_those_of_other_ranks() -> None:
    """zero_grad(set_to_none=False) at the end of a step: the next backward adds to zeros."""
    x, y = data().tensors
    model = make("mlp")
    model, optimizer = gst.distribute(model, sgd(model))
    for _ in range(2):
        with gst.join(model):
            for k in range(3 - gs.rank()):
                part = slice(4 * k + 2 * gs.rank(), 4 * k + 2 * gs.rank() + 2)
                nn.functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
        kept = [float(p.grad.abs().max()) for p in model.parameters()]
        assert kept == [0] * len(kept)
    wanted = make("mlp")
    its = sgd(wanted)
    for _ in range(2):
        for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
            its.zero_grad()
            nn.functional.cross_entropy(wanted(x[part]), y[part]).backward()
            its.step()
    assert_equal_everywhere(model)
    found = difference(model, wanted)
    gst.release(model)
    assert found <= 1e-12


class Tracked(nn.Module):
    """With the idiom of an empty parameter that tells the device, and one that is used late."""

    def __init__(self) -> None:
        super().__init__()
        self.device_of = nn.Parameter(torch.empty(0))
        self.table = nn.Embedding(20000, 64)  # larger than a bucket
        self.late = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1)) * (self.late if self.training else 1)


@case([2])
def parameters_without_elements_and_without_gradients() -> None:
    """Under servers, with Adagrad, whose state is there from the beginning."""
    for strategy in (
        "all_reduce",
        "ps:bsp",
        gs.StrategySwitch(policy=gs.At(step=2), then="ps:bsp"),
    ):
        torch.manual_seed(0)
        model = Tracked().eval()
        model, optimizer = gst.distribute(
            model, torch.optim.Adagrad(model.parameters(), lr=0.1), strategy
        )
        for k in range(4):
            optimizer.zero_grad()
            model(torch.arange(8).view(2, 4) + k).square().sum().backward()
            optimizer.step()
        state = optimizer.state_dict()
        gst.release(model)
        other = Tracked()
        torch.optim.Adagrad(other.parameters(), lr=0.1).load_state_dict(state)
        assert float(state["state"][1]["step"]) == 0
