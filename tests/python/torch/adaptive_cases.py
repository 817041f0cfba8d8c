"""Servers that do not wait, and policies that switch."""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.utils.checkpoint
from gearshift_testing import case
from gearshift_testing.training import (
    assert_equal_everywhere,
    batches,
    cross_entropy,
    make,
    share,
    train,
)

import gearshift as gs
import gearshift.torch as gst

STEPS = 20
WORLDS = (1, 2)


class Heard(logging.Handler):
    """What is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


def both() -> list[gs.strategy.Strategy]:
    return [gs.AllReduce(bucket_mb=2**-10), gs.ParameterServer(bucket_mb=2**-10)]


@case([2])
def asynchronous_servers_learn() -> None:
    steps = 120  # of buffered(3, bound=2), 80 updates
    for strategy in ("ps:asp", "ps:ssp(2)", "ps:buffered(2)", "ps:buffered(3, bound=2)"):
        model = make("mlp")
        model, its = gst.distribute(
            model, torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.5), strategy
        )
        x, y = next(batches(1, batch=32))
        losses = []
        for _ in range(steps):
            loss = cross_entropy(model, share(x), share(y))
            its.zero_grad()
            loss.backward()
            gst.clip_grad_norm_(model.parameters(), 5.0)
            its.step(loss=loss)
            losses.append(float(loss.detach()))
        stats = gst.stats(model)
        gs.barrier()
        gst.release(model)
        assert losses[-1] < 0.6 * losses[0], f"{strategy}: {losses[0]} {losses[-1]}"
        assert stats["pushes"] == steps
        if "ssp" in strategy:
            assert stats["max_lead"] <= 2


@case([2])
def policies_see_equal_metrics() -> None:
    seen = []

    def policy(metrics: object) -> bool:
        seen.append((metrics.step, metrics.epoch, metrics.loss, metrics.strategy))
        return metrics.epoch == 1

    model = make("mlp")
    model, its = gst.distribute(
        model, adam(model.parameters()), gs.StrategySwitch(policy=policy, then="ps:bsp")
    )
    for epoch in range(3):
        for x, y in batches(4):
            loss = cross_entropy(model, share(x), share(y))
            its.zero_grad()
            loss.backward()
            its.step(loss=loss, epoch=epoch)
    stats = gst.stats(model)
    gst.release(model)
    assert stats["strategy"] == "parameter_server(bsp)"
    assert len(stats["switches"]) == 1
    assert stats["switches"][0]["policy"].endswith("policy")
    text = repr(seen)
    assert gst.broadcast_object(text) == text
    assert np.isfinite(seen[-1][2])


@case([2])
def a_loss_plateau_that_sees_nothing_says_so() -> None:
    """With the first step, and once."""
    x, y = next(batches(1))
    heard = []
    for loss_given, epoch, word in (
        (False, 0, "needs optimizer.step(loss=loss)"),
        (True, None, "where they are"),
        (True, 0, ""),
    ):
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), "switch")
        handler = Heard()
        logging.getLogger("gearshift").addHandler(handler)
        for _ in range(2):
            its.zero_grad()
            loss = cross_entropy(model, share(x), share(y))
            loss.backward()
            its.step(loss=loss if loss_given else None, epoch=epoch)
        logging.getLogger("gearshift").removeHandler(handler)
        gst.release(model)
        heard.append((word, [t for t in handler.texts if "LossPlateau will not fire" in t]))
    for word, texts in heard:
        assert len(texts) == (1 if word and gs.rank() == 0 else 0), texts
        assert all(word in text for text in texts)


@case([2])
def a_loss_plateau_switches() -> None:
    model = make("mlp")
    model, its = gst.distribute(
        model, adam(model.parameters()), gs.StrategySwitch(policy=gs.LossPlateau(2, 0.5))
    )
    dataset = list(zip(*next(batches(1, batch=8)), strict=True))
    sampler = gst.DistributedSampler(dataset)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, sampler=sampler)
    for epoch in range(6):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = cross_entropy(model, x, y)
            its.zero_grad()
            loss.backward()
            its.step(loss=loss)
    stats = gst.stats(model)
    gst.release(model)
    assert [s["to"] for s in stats["switches"]] == ["parameter_server(asp)"]
    assert "loss_plateau" in stats["switches"][0]["policy"]


@case([2])
def a_plateau_there_and_another_back() -> None:
    """Epochs before a switch are no reason for the next one."""
    strategy = gs.StrategySwitch(
        then="ps:bsp", policy=gs.LossPlateau(2, 0.1), back=gs.LossPlateau(2, 0.1)
    )
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()), strategy)
    for epoch in range(9):
        for x, y in batches(3):
            its.zero_grad()
            cross_entropy(model, share(x), share(y)).backward()
            its.step(loss=1.0, epoch=epoch)
    steps = [s["step"] for s in gst.stats(model)["switches"]]
    gst.release(model)
    assert steps == [11, 21], f"{steps}: when three epochs under each strategy are known"


def plateau_beside(idle: int, server: gs.ParameterServer) -> None:
    """Rank `idle` has no batch in any epoch."""
    strategy = gs.StrategySwitch(start=server, then="all_reduce", policy=gs.LossPlateau(2, 0.1))
    model = make("mlp")
    model, its = gst.distribute(model, adam(model.parameters()), strategy)
    for epoch in range(7):
        with gst.join(model):
            for x, y in batches(0 if gs.rank() == idle else 2):
                its.zero_grad()
                cross_entropy(model, share(x), share(y)).backward()
                its.step(loss=1.0, epoch=epoch)
    switches = gst.stats(model)["switches"]
    gst.release(model)
    assert [s["to"] for s in switches] == ["all_reduce"], f"{server}, {idle} is idle"


@case([2])
def a_plateau_is_seen_beside_a_worker_without_batches() -> None:
    for consistency in (gs.BSP(), gs.ASP()):
        for idle in (0, 1):
            plateau_beside(idle, gs.ParameterServer(consistency=consistency))


@case([2], servers=1)
def a_plateau_is_seen_by_dedicated_servers() -> None:
    for idle in (0, 1):
        plateau_beside(idle, gs.ParameterServer(servers=1))


@case([2])
def losses_are_those_of_all_workers() -> None:
    """On every rank, whatever the server: schedules may follow them."""
    for strategy in ("ps:bsp", "ps:asp", gs.StrategySwitch(then="ps:bsp", policy=gs.At(step=2))):
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        told = []
        for k, (x, y) in enumerate(batches(4)):
            its.zero_grad()
            cross_entropy(model, share(x), share(y)).backward()
            gs.barrier()
            its.step(loss=float(k + 1 + 2 * gs.rank()))
            told.append(gst.stats(model)["loss"])
        gs.barrier()
        gst.release(model)
        if strategy == "ps:asp":
            assert told[3] in (4.5, 5.0), f"{told}: the other worker's may be of the step before"
        else:
            assert told[2:] == [4.0, 5.0], told


@case([2])
def losses_after_an_epoch_are_the_same_everywhere() -> None:
    """Also on the rank that had fewer batches: a rate may follow them (ReduceLROnPlateau)."""
    switch = gs.StrategySwitch(then="ps:bsp", policy=gs.At(step=2))
    for strategy in ("all_reduce", "ps:bsp", "ps:asp", switch):
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        for epoch in range(2):
            with gst.join(model):
                for k, (x, y) in enumerate(batches(3 + 2 * ((gs.rank() + epoch) % 2))):
                    its.zero_grad()
                    cross_entropy(model, share(x), share(y)).backward()
                    its.step(loss=float(10 * epoch + k + gs.rank()))
            told = gst.stats(model)["loss"]
            assert gst.broadcast_object(told) == told, f"{strategy}, epoch {epoch}: {told}"
            if strategy == "ps:bsp":
                assert told == 10.0 * epoch + 4 + (epoch + 1) % 2, f"epoch {epoch}: {told}"
        gst.release(model)


@case([2])
def asynchronous_workers_are_equal_after_release() -> None:
    for strategy in ("ps:asp", "ps:ssp(3)", "ps:buffered(3)"):
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        train(model, its, batches(4 + 3 * gs.rank()))
        gst.release(model)
        state = its.state_dict()["state"]
        assert_equal_everywhere(model)
        for entry in state.values():
            assert torch.equal(gst.broadcast_object(entry["exp_avg"]), entry["exp_avg"])


@case([2])
def writes_to_parameters_between_asynchronous_steps_are_told() -> None:
    handler = Heard()
    logging.getLogger("gearshift").addHandler(handler)
    heard = []
    for strategy in ("ps:bsp", "ps:asp"):
        model = make("mlp")
        model, its = gst.distribute(model, adam(model.parameters()), strategy)
        model.load_state_dict(make("mlp").state_dict())
        train(model, its, batches(2))
        heard.append(len(handler.texts))
        model.load_state_dict(model.state_dict())
        train(model, its, batches(2))
        heard.append(len(handler.texts))
        gst.release(model)
    logging.getLogger("gearshift").removeHandler(handler)
    assert heard == [0, 0, 0, 1], handler.texts
    assert "use a copy of the model" in handler.texts[0]
