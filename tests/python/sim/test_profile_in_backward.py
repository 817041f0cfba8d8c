"""What is recorded of optimizers that step within backward, with gst.profile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gearshift_testing.clock import Clock, slow_backward
from torch import Tensor, nn

import gearshift.torch as gst
from gearshift.torch import _profile

SLEEP = 2.0**-7
"""Of forward, of backward before each layer, and of the update of each parameter."""
NEAR = SLEEP / 100
"""Each look at the clock takes a little."""
CLOCK = Clock()
SlowBackward = slow_backward(CLOCK, SLEEP)


@pytest.fixture(autouse=True)
def made_up_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_profile, "time", CLOCK)


class SlowUpdate(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        CLOCK.spend(SLEEP)
        return super().step(closure)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.last = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        CLOCK.spend(SLEEP)
        x = SlowBackward.apply(self.first(x))
        return SlowBackward.apply(self.last(x))


def step_in_backward(parameter: nn.Parameter) -> None:
    optimizer = SlowUpdate([parameter], lr=0.01)

    def step(parameter: Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    parameter.register_post_accumulate_grad_hook(step)


@pytest.mark.parametrize("hooks_first", [True, False])  # before those of the recorder, or after
@pytest.mark.parametrize("all_within", [True, False])
def test_the_update_is_no_part_of_backward(hooks_first: bool, all_within: bool) -> None:
    model = Net()
    within = list(model.parameters()) if all_within else [model.last.weight]
    rest = None if all_within else SlowUpdate([model.first.weight], lr=0.01)
    if hooks_first:
        for parameter in within:
            step_in_backward(parameter)
    with gst.profile(model, warmup=2) as p:
        for step in range(6):
            model(torch.randn(6, 4)).square().mean().backward()
            if rest is not None:
                rest.step()
                rest.zero_grad()
            if step == 0 and not hooks_first:
                for parameter in within:
                    step_in_backward(parameter)
    workload = p.workload
    assert p.steps >= 2
    assert workload.batch_size == 6
    assert workload.forward_seconds == pytest.approx(SLEEP, abs=NEAR)
    assert workload.backward_seconds == pytest.approx(2 * SLEEP, abs=NEAR)
    assert workload.optimizer_seconds == pytest.approx(2 * SLEEP, abs=NEAR)
    ready = {parameter.name: parameter.ready_seconds for parameter in workload.parameters}
    times = {"first.weight": 2 * SLEEP, "last.weight": SLEEP}
    assert ready == pytest.approx(times, abs=NEAR)
