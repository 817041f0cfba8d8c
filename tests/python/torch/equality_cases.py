"""N workers equal one process with the N-fold batch, under every synchronous strategy."""

from __future__ import annotations

import functools

import torch
from gearshift_testing import case
from gearshift_testing.cases import add
from gearshift_testing.training import (
    MODELS,
    OPTIMIZERS,
    assert_equal_everywhere,
    batches,
    difference,
    make,
    reference,
    train,
)

import gearshift as gs
import gearshift.torch as gst

STEPS = 100
SMALL = 2**-10
"""Buckets of 1 KiB: several per model."""

STRATEGIES = {
    "all_reduce": lambda: gs.AllReduce(bucket_mb=SMALL),
    "bsp_1_shard": lambda: gs.ParameterServer(shards=1, bucket_mb=SMALL),
    "bsp_2_shards": lambda: gs.ParameterServer(shards=2, bucket_mb=SMALL),
    "bsp_n_shards": lambda: gs.ParameterServer(bucket_mb=SMALL),
}


@functools.cache
def expected(model: str, optimizer: str, dtype: torch.dtype) -> torch.nn.Module:
    """What one process gets."""
    return reference(
        make(model, dtype),
        OPTIMIZERS[optimizer],
        lambda m, o: train(m, o, batches(STEPS, model, dtype=dtype), alone=True),
    )


def run(
    model: str,
    optimizer: str,
    strategy: gs.strategy.Strategy,
    dtype: torch.dtype = torch.float64,
    bound: float = 1e-12,
) -> dict:
    """Train under a strategy and compare; returns the stats."""
    trained = make(model, dtype)
    if gs.rank() > 0:  # rank 0's parameters are what counts
        torch.nn.init.normal_(next(trained.parameters()))
    trained, its = gst.distribute(trained, OPTIMIZERS[optimizer](trained.parameters()), strategy)
    train(trained, its, batches(STEPS, model, dtype=dtype))
    assert_equal_everywhere(trained)
    # The other ranks need not compute the same again.
    found = difference(trained, expected(model, optimizer, dtype)) if gs.rank() == 0 else 0.0
    assert found <= bound, f"relative difference {found:.2e}"
    stats = gst.stats(trained)
    gst.release(trained)
    return stats


def equality(model: str, optimizer: str, strategy: str) -> None:
    stats = run(model, optimizer, STRATEGIES[strategy]())
    assert stats["step"] == STEPS
    assert stats["pushes"] == (0 if strategy == "all_reduce" else STEPS)
    assert stats["max_staleness"] == 0


_ALL = (1, 2, 3, 4)
for _strategy in STRATEGIES:
    for _model in MODELS:
        for _optimizer in OPTIMIZERS:
            _worlds = {"bsp_2_shards": (3, 4), "bsp_1_shard": (2, 3, 4)}.get(
                _strategy, (1, 2, 3, 4)
            )
            _call = functools.partial(equality, _model, _optimizer, _strategy)
            add(f"{_model}_{_optimizer}_{_strategy}", _call, _worlds)


def in_single_precision(model: str, optimizer: str) -> None:
    """The framework sums half batches in another order than whole ones, which costs SGD the most.

    In float64, above, the same comparison leaves nothing to that.
    """
    bound = 2e-6 if (model, optimizer) == ("cnn", "sgd") else 1e-6
    for strategy in ("all_reduce", "bsp_n_shards"):
        run(model, optimizer, STRATEGIES[strategy](), torch.float32, bound)


for _model in MODELS:
    for _optimizer in OPTIMIZERS:
        _call = functools.partial(in_single_precision, _model, _optimizer)
        add(f"{_model}_{_optimizer}_in_float32", _call, [2])


def there_and_back(optimizer: str) -> None:
    """Proof of the switch: All-Reduce to a BSP server at step 30, and back at 60."""
    stats = run(
        "mlp",
        optimizer,
        gs.StrategySwitch(
            start=gs.AllReduce(bucket_mb=SMALL),
            then=gs.ParameterServer(),
            policy=gs.At(step=30),
            back=gs.At(step=60),
        ),
    )
    first, second = stats["switches"]
    assert (first["step"], first["from"], first["to"]) == (
        30,
        "all_reduce",
        "parameter_server(bsp)",
    )
    assert (second["step"], second["to"]) == (60, "all_reduce")
    assert stats["pushes"] == 30
    assert first["policy"] == "at(step=30)"
    hashes = [r["parameter_hash"] for r in stats["switches"]]
    for r in (first, second):
        assert r["bytes_moved"] >= 0
        assert r["seconds"] > 0
    assert gst.broadcast_object(hashes) == hashes


for _optimizer in OPTIMIZERS:
    add(
        f"switch_there_and_back_{_optimizer}", functools.partial(there_and_back, _optimizer), (2, 3)
    )


@case([2, 3])
def gradients_and_parameters_that_are_lent() -> None:
    for shards in (1, None):
        run("wide", "sgd", gs.ParameterServer(shards=shards))
    stats = run(
        "wide",
        "adam",
        gs.StrategySwitch(
            start=gs.AllReduce(),
            then=gs.ParameterServer(),
            policy=gs.At(step=30),
            back=gs.At(step=60),
        ),
    )
    assert stats["pushes"] == 30


@case([2])
def switch_from_server_to_all_reduce() -> None:
    stats = run(
        "cnn",
        "adam",
        gs.StrategySwitch(
            start=gs.ParameterServer(bucket_mb=SMALL), then="all_reduce", policy=gs.At(step=50)
        ),
    )
    assert [s["to"] for s in stats["switches"]] == ["all_reduce"]


@case([1])
def switch_to_asp_with_one_worker() -> None:
    for optimizer in OPTIMIZERS:
        stats = run("mlp", optimizer, gs.StrategySwitch(policy=gs.At(step=30)))
        assert stats["strategy"] == "parameter_server(asp)"
        assert stats["mean_staleness"] == 0


@case([1])
def every_consistency_with_one_worker() -> None:
    for consistency in (gs.ASP(), gs.SSP(2), gs.Buffered(1)):
        run("mlp", "adam", gs.ParameterServer(consistency))


@case([2], servers=1)
def one_dedicated_server() -> None:
    for optimizer in OPTIMIZERS:
        run("mlp", optimizer, gs.ParameterServer(servers=1, bucket_mb=SMALL))


@case([2], servers=2)
def two_dedicated_servers_there_and_back() -> None:
    run("cnn", "adamw", gs.ParameterServer(bucket_mb=SMALL))
    there_and_back("adam")
