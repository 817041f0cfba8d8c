"""What training loops do besides the plain step: each equals one process with the N-fold batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from gearshift_testing import case
from gearshift_testing.training import (
    BATCH,
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

STEPS = 30
WORLDS = (1, 2, 3)
SYNCHRONOUS = {
    "all_reduce": lambda: gs.AllReduce(bucket_mb=2**-10),
    "bsp": lambda: gs.ParameterServer(bucket_mb=2**-10),
}


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


def compare(
    model: Callable[[], nn.Module],
    optimizer: Callable[[object], torch.optim.Optimizer],
    run: Callable[[nn.Module, torch.optim.Optimizer, bool], None],
    strategies: tuple[str, ...] = ("all_reduce", "bsp"),
    bound: float = 1e-12,
    **options: object,
) -> None:
    """Train by `run(model, optimizer, alone)` distributed and alone, and compare."""
    torch.manual_seed(3)
    start = model().double()
    alone = reference(start, optimizer, lambda m, o: run(m, o, True))
    for name in strategies:
        torch.manual_seed(3)
        trained = model().double()
        trained, its = gst.distribute(
            trained, optimizer(trained.parameters()), SYNCHRONOUS[name](), **options
        )
        run(trained, its, False)
        assert_equal_everywhere(trained)
        found = difference(trained, alone)
        gst.release(trained)
        assert found <= bound, f"{name}: relative difference {found:.2e}"


def mine(x: Tensor, alone: bool) -> Tensor:
    return x if alone else share(x)


@case(WORLDS)
def clipping_by_the_global_norm() -> None:
    norms = []

    def run(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        clip = torch.nn.utils.clip_grad_norm_ if alone else gst.clip_grad_norm_
        train(
            model,
            optimizer,
            batches(STEPS),
            alone=alone,
            before_step=lambda step: norms.append(clip(model.parameters(), 0.05 * (1 + step % 3))),
        )

    compare(MLP, sgd, run)
    assert all(float(n) > 0 for n in norms)


@case(WORLDS)
def clipping_of_a_model_and_by_the_strategy() -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        def clip(step: int) -> None:
            if alone:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)

        train(model, optimizer, batches(STEPS), alone=alone, before_step=clip)

    start = make("mlp")
    alone = reference(start, adam, lambda m, o: run(m, o, True))
    trained = make("mlp")
    trained, its = gst.distribute(
        trained, adam(trained.parameters()), gs.ParameterServer(clip_norm=0.1)
    )
    run(trained, its, False)
    found = difference(trained, alone)
    gst.release(trained)
    assert found <= 1e-12, f"{found:.2e}"

    def run_with_model(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        def clip(step: int) -> None:
            if alone:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            else:
                gst.clip_grad_norm_(model, 0.1)

        train(model, optimizer, batches(STEPS), alone=alone, before_step=clip)

    compare(MLP, sgd, run_with_model)


@case(WORLDS)
def an_infinite_norm_clips_nothing() -> None:
    """Nor does the strategy's then."""
    alone = reference(make("mlp"), adam, lambda m, o: train(m, o, batches(STEPS), alone=True))
    trained = make("mlp")
    trained, its = gst.distribute(
        trained, adam(trained.parameters()), gs.ParameterServer(clip_norm=0.001)
    )
    train(
        trained,
        its,
        batches(STEPS),
        alone=False,
        before_step=lambda step: gst.clip_grad_norm_(trained, math.inf),
    )
    found = difference(trained, alone)
    gst.release(trained)
    assert found <= 1e-12, f"{found:.2e}"


@case(WORLDS)
def plain_torch_clipping_under_all_reduce() -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        train(
            model,
            optimizer,
            batches(STEPS),
            alone=alone,
            before_step=lambda step: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1),
        )

    compare(MLP, sgd, run, ("all_reduce",))


@case(WORLDS)
def gradients_are_the_global_mean_when_backward_returns() -> None:
    model, alone = make("mlp"), make("mlp")
    model, _ = gst.distribute(model)
    for x, y in batches(3):
        model.zero_grad()
        alone.zero_grad()
        cross_entropy(model, share(x), share(y)).backward()
        cross_entropy(alone, x, y).backward()
        for p, q in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)
    gst.release(model)


@case(WORLDS)
def hand_written_updates() -> None:
    model, alone = make("mlp"), make("mlp")
    model, nothing = gst.distribute(model)
    assert nothing is None
    for x, y in batches(STEPS):
        for m, a, b in ((model, share(x), share(y)), (alone, x, y)):
            loss = cross_entropy(m, a, b)
            loss.backward()
            with torch.no_grad():
                for p in m.parameters():
                    p -= 0.1 * p.grad
                    p.grad = None
    found = difference(model, alone)
    assert found <= 1e-12, f"{found:.2e}"
    assert gst.stats(model)["step"] == STEPS - 1  # the last one is still open
    gst.release(model)


@case(WORLDS)
def accumulation_under_no_sync() -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        for step, (x, y) in enumerate(batches(STEPS), 1):
            if step % 3 == 1:
                optimizer.zero_grad()
            loss = lambda: cross_entropy(model, mine(x, alone), mine(y, alone)) / 3  # noqa: B023,E731
            if alone or step % 3 == 0:
                loss().backward()
            else:
                with gst.no_sync(model):
                    loss().backward()
            if step % 3 == 0:
                optimizer.step()

    compare(MLP, sgd, run)


@case(WORLDS)
def step_exchanges_what_no_sync_left() -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        for x, y in batches(STEPS):
            optimizer.zero_grad()
            if alone:
                cross_entropy(model, x, y).backward()
            else:
                with gst.no_sync(model):
                    cross_entropy(model, share(x), share(y)).backward()
            optimizer.step()

    compare(MLP, adam, run)


@case(WORLDS)
def accumulation_by_several_backwards() -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        for step, (x, y) in enumerate(batches(STEPS), 1):
            cross_entropy(model, mine(x, alone), mine(y, alone)).backward()
            if step % 2 == 0:
                optimizer.step()
                optimizer.zero_grad(set_to_none=step % 4 == 0)

    compare(MLP, sgd, run)


@case(WORLDS)
def zeroed_gradients_keep_their_memory() -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        for x, y in batches(STEPS):
            loss = cross_entropy(model, mine(x, alone), mine(y, alone))
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()

    compare(MLP, adam, run)
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()))
    pointers = []
    for x, y in batches(3):
        its.zero_grad(set_to_none=False)
        cross_entropy(model, share(x), share(y)).backward()
        pointers.append([p.grad.data_ptr() for p in model.parameters()])
        its.step()
    gst.release(model)
    assert pointers[0] == pointers[1] == pointers[2]


@case(WORLDS)
def closures() -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        for x, y in batches(STEPS):

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = cross_entropy(model, mine(x, alone), mine(y, alone))
                loss.backward()
                return loss

            assert math.isfinite(float(optimizer.step(closure).detach()))

    compare(MLP, sgd, run)


@case(WORLDS)
def lbfgs_under_all_reduce() -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, alone: bool) -> None:
        for x, y in batches(4, batch=8):

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = cross_entropy(model, mine(x, alone), mine(y, alone))
                loss.backward()
                return loss

            optimizer.step(closure)

    def lbfgs(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, lr=0.5, max_iter=4, line_search_fn="strong_wolfe")

    compare(MLP, lbfgs, run, ("all_reduce",), 1e-9)


@case(WORLDS)
def learning_rate_schedulers() -> None:
    def run_with(before: bool) -> None:
        def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
            return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=STEPS + 1)

        schedules: dict[int, torch.optim.lr_scheduler.LRScheduler] = {}

        def optimizer(parameters: object) -> torch.optim.Optimizer:
            made = sgd(parameters)
            if before:
                schedules[id(made)] = schedule(made)
            return made

        def run(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
            schedules.setdefault(id(its), schedule(its) if not before else None)  # type: ignore
            step = schedules[id(its)].step
            train(model, its, batches(STEPS), alone=alone, after_step=lambda _: step())

        compare(MLP, optimizer, run)

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_with(before=True)
        run_with(before=False)


class Groups(MLP):
    """With several dtypes."""

    def double(self) -> Groups:
        super().double()
        self[4].float()
        return self

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self)[:4]:
            x = layer(x)
        return self[4](x.float()).double()


@case(WORLDS)
def several_dtypes_and_param_groups() -> None:
    def optimizer(parameters: object) -> torch.optim.Optimizer:
        p = list(parameters)  # type: ignore[call-overload]
        return torch.optim.AdamW(
            [
                {"params": p[0::2], "lr": 1e-2, "weight_decay": 0.0},
                {"params": p[1::2], "lr": 3e-3, "betas": (0.8, 0.99)},
            ]
        )

    def run(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        train(model, its, batches(STEPS), alone=alone)

    compare(Groups, optimizer, run, bound=2e-5)  # one layer is float32


class Odd(nn.Module):
    """Tied, unused, frozen and empty parameters, and one that is used in some steps only."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.sometimes = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.empty = nn.Parameter(torch.empty(0))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        if self.calls % 3 == 0:
            x = x + self.sometimes(x)
        return self.head(self.frozen(x)) * self.scalar + self.empty.sum()


@case(WORLDS)
def tied_unused_frozen_and_empty_parameters() -> None:
    def run(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        train(model, its, batches(STEPS), alone=alone)
        assert model.unused.weight.grad is None  # type: ignore[union-attr]

    compare(Odd, sgd, run)
    compare(Odd, adam, run)
    compare(Odd, adam, run, stage="force")


@case([2, 3])
def a_parameter_that_only_some_ranks_use() -> None:
    model = nn.ModuleDict({"body": make("mlp"), "extra": nn.Linear(6, 6).double()})
    alone = nn.ModuleDict({"body": make("mlp"), "extra": nn.Linear(6, 6).double()})
    model, its = gst.distribute(model, sgd(model.parameters()))
    alone.load_state_dict(model.state_dict())
    other = sgd(alone.parameters())
    n, rank = gs.world_size(), gs.rank()
    for x, y in batches(STEPS):

        def loss_of(m: nn.ModuleDict, x: Tensor, y: Tensor, extra: bool) -> Tensor:
            x = m["extra"](x) if extra else x
            return nn.functional.cross_entropy(m["body"](x), y)

        its.zero_grad()
        gst.samples(BATCH)
        loss_of(model, share(x), share(y), rank == 0).backward()
        its.step()
        other.zero_grad()
        parts = list(zip(x.chunk(n), y.chunk(n), strict=True))
        sum(loss_of(alone, a, b, i == 0) / n for i, (a, b) in enumerate(parts)).backward()
        other.step()
    assert_equal_everywhere(model)
    found = difference(model, alone)
    gst.release(model)
    assert found <= 1e-12, f"{found:.2e}"


@case(WORLDS)
def optimizers_that_the_server_runs_in_python() -> None:
    def run(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        train(model, its, batches(STEPS), alone=alone)

    for cls, options in (
        (torch.optim.Adadelta, {"lr": 0.5}),
        (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
        (torch.optim.NAdam, {}),
        (torch.optim.RAdam, {}),
        (torch.optim.Rprop, {}),
        (torch.optim.Adamax, {}),
        (torch.optim.ASGD, {}),
    ):
        compare(MLP, lambda p, c=cls, o=options: c(p, **o), run, ("bsp",), 1e-11)


@case([1, 3])
def native_optimizers_with_their_options() -> None:
    def run(model: nn.Module, its: torch.optim.Optimizer, alone: bool) -> None:
        train(model, its, batches(STEPS), alone=alone)

    for cls, options in (
        (torch.optim.SGD, {"lr": 0.05}),
        (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
        (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "maximize": True}),
        (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
        (torch.optim.Adam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
        (torch.optim.AdamW, {"amsgrad": True, "lr": torch.tensor(1e-3, dtype=torch.float64)}),
        (torch.optim.Adagrad, {"lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    ):
        compare(MLP, lambda p, c=cls, o=options: c(p, **o), run, ("bsp",), 1e-12)


@case(WORLDS)
def adadelta_there_and_back() -> None:
    alone = reference(
        make("mlp"),
        lambda p: torch.optim.Adadelta(p, lr=0.5),
        lambda m, o: train(m, o, batches(STEPS), alone=True),
    )
    model = make("mlp")
    model, its = gst.distribute(
        model,
        torch.optim.Adadelta(model.parameters(), lr=0.5),
        gs.StrategySwitch(
            then=gs.ParameterServer(), policy=gs.At(step=10), back=gs.At(fraction=2 / 3)
        ),
        total_steps=STEPS,
    )
    train(model, its, batches(STEPS))
    switches = gst.stats(model)["switches"]
    found = difference(model, alone)
    gst.release(model)
    assert [s["step"] for s in switches] == [10, 20]
    assert found <= 1e-12, f"{found:.2e}"


@case([2])
def compiled_steps() -> None:
    for strategy in ("all_reduce", "ps:bsp"):
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)

        @torch.compile(backend="eager")
        def step(loss: Tensor, its: torch.optim.Optimizer = its) -> None:
            its.step(loss=loss)

        for x, y in batches(STEPS):
            its.zero_grad()
            loss = cross_entropy(model, share(x), share(y))
            loss.backward()
            step(loss.detach())
        alone = reference(make("mlp"), adam, lambda m, o: train(m, o, batches(STEPS), alone=True))
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, strategy
