"""Every optimizer that servers can run does there what it does in one process."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.cases import add
from gearshift_testing.optimizers import Warm
from gearshift_testing.training import (
    assert_equal_everywhere,
    batches,
    difference,
    make,
    reference,
    train,
)
from torch import nn, optim
from torch.optim import Optimizer

import gearshift as gs
import gearshift.torch as gst

STEPS = 36
SMALL = 2**-10

Make = Callable[[Sequence[nn.Parameter]], Optimizer]


def of(cls: type[Optimizer], second: dict[str, Any] | None = None, **options: Any) -> Make:
    """With two param groups; `second` has options that the second has of its own."""

    def make_it(parameters: Sequence[nn.Parameter]) -> Optimizer:
        found = list(parameters)
        groups = [{"params": found[:3]}, {"params": found[3:], **(second or {})}]
        return cls(groups, **options)

    return make_it


OPTIMIZERS: dict[str, Make] = {
    "sgd": of(optim.SGD, {"lr": 0.1}, lr=0.02, weight_decay=0.01),
    "sgd_tensor_rate": of(optim.SGD, lr=torch.tensor(0.05), momentum=0.5, dampening=0.3),
    "sgd_nesterov": of(
        optim.SGD, {"nesterov": False, "momentum": 0.0}, lr=0.02, momentum=0.9, nesterov=True
    ),
    "sgd_maximize": of(optim.SGD, {"maximize": False}, lr=0.01, momentum=0.9, maximize=True),
    "sgd_foreach": of(optim.SGD, {"foreach": False}, lr=0.02, momentum=0.9, foreach=True),
    "sgd_foreach_in_one_group": of(optim.SGD, {"foreach": True}, lr=0.02),
    "sgd_fused": of(optim.SGD, lr=0.02, momentum=0.9, fused=True),
    "adam_amsgrad": of(
        optim.Adam, {"betas": (0.5, 0.7)}, lr=3e-3, amsgrad=True, weight_decay=0.1, maximize=True
    ),
    "adam_decoupled": of(optim.Adam, lr=3e-3, weight_decay=0.1, decoupled_weight_decay=True),
    "adam_foreach": of(optim.Adam, {"foreach": None, "eps": 1e-4}, lr=3e-3, foreach=True),
    "adamw_coupled": of(optim.AdamW, {"decoupled_weight_decay": False}, lr=3e-3, weight_decay=0.1),
    "adamw_amsgrad": of(optim.AdamW, {"amsgrad": False}, lr=3e-3, amsgrad=True),
    "adagrad": of(optim.Adagrad, lr=0.05, lr_decay=0.1, initial_accumulator_value=0.2),
    "adadelta": of(optim.Adadelta, {"rho": 0.5}, lr=0.5, weight_decay=0.01),
    "adamax": of(optim.Adamax, lr=3e-3, weight_decay=0.01, maximize=True),
    "asgd": of(optim.ASGD, lr=0.05, t0=5, lambd=1e-2, weight_decay=0.01),
    "nadam": of(optim.NAdam, lr=3e-3, weight_decay=0.1, decoupled_weight_decay=True),
    "radam": of(optim.RAdam, {"foreach": True}, lr=3e-3),
    "rmsprop": of(optim.RMSprop, {"centered": False}, lr=3e-3, momentum=0.9, centered=True),
    "rprop": of(optim.Rprop, lr=1e-3, etas=(0.6, 1.1), step_sizes=(1e-5, 0.1)),
    "own": of(Warm, {"warmup": 7, "decays": False}, lr=0.05),
}

STRATEGIES: dict[str, Callable[[], gs.strategy.Strategy]] = {
    "bsp": lambda: gs.ParameterServer(bucket_mb=SMALL),
    "there_and_back": lambda: gs.StrategySwitch(
        start=gs.AllReduce(bucket_mb=SMALL),
        then=gs.ParameterServer(),
        policy=gs.At(step=12),
        back=gs.At(step=24),
    ),
}


def as_one_process(optimizer: str) -> None:
    made = OPTIMIZERS[optimizer]
    own = optimizer == "own"
    states = []

    def alone(model: nn.Module, its: Any) -> None:
        train(model, its, batches(STEPS), alone=True)
        states.append(its.state_dict()["state"])

    wanted = reference(make("mlp"), lambda p: made(list(p)), alone)
    for name, strategy in STRATEGIES.items():
        model = make("mlp")
        its = made(list(model.parameters()))
        model, its = gst.distribute(model, its, strategy(), elementwise=own)
        train(model, its, batches(STEPS))
        assert_equal_everywhere(model)
        state = its.state_dict()["state"]
        found = difference(model, wanted)
        gst.release(model)
        assert found <= 1e-11, f"{name}: relative difference {found:.2e}"
        assert state.keys() == states[0].keys()
        for index, entry in state.items():
            assert entry.keys() == states[0][index].keys(), name
            for key, value in entry.items():
                like = torch.as_tensor(states[0][index][key])
                assert torch.as_tensor(value).shape == like.shape, f"{name}: {key}"
                close = torch.allclose(torch.as_tensor(value).to(like), like, rtol=1e-6)
                assert close, f"{name}: {key} is {value}, not {like}"


for _name in OPTIMIZERS:
    add(f"{_name}_as_in_one_process", functools.partial(as_one_process, _name), [2])


@case([1])
def options_that_do_not_travel() -> None:
    """Servers would run with the class's default instead, in silence."""
    for second, mode, word in (
        ({"mode": "sum"}, "mean", "mode='sum' in param group 1"),
        ({}, "sum", "mode='sum' in param group 0"),
        ({"warmup": None}, "mean", "warmup=None in param group 1"),
        ({"rule": torch.sigmoid}, "mean", "rule="),
    ):
        model = make("mlp")
        its = of(Warm, second, lr=0.1, mode=mode)(list(model.parameters()))
        with pytest.raises(gs.Unsupported) as raised:
            gst.distribute(model, its, "ps:bsp", elementwise=True)
        assert word in str(raised.value), str(raised.value)
