"""What is recorded of unusual models and loops, with gst.profile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gearshift_testing.clock import Clock, slow_backward
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gearshift as gs
import gearshift.torch as gst
from gearshift.sim.profiling import show
from gearshift.sim.workload import Workload
from gearshift.torch import _profile
from gearshift.torch._profile import Recorder, StopProfiling
from gearshift.torch._profile_steps import ParameterInfo, StepTimes, factors_of, summarize

SLEEP = 2.0**-7
"""In forward, backward or the update; sums of it are exact."""
CLOCK = Clock()
SlowBackward = slow_backward(CLOCK, SLEEP)


@pytest.fixture(autouse=True)
def made_up_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the recorder; the tests of the command have the real one."""
    monkeypatch.setattr(_profile, "time", CLOCK)


class Net(nn.Module):
    """A frozen, a tied and an unused parameter; backward is slow between `last` and `first`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.unused = nn.Parameter(torch.zeros(3))
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(self.first(x))
        return self.last(SlowBackward.apply(self.tied(x)))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 4,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (forward or model)(torch.randn(6, 4)).square().mean().backward()
        optimizer.step()


def sgd(*modules: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD([p for m in modules for p in m.parameters()], lr=0.01)


def ready(workload: Workload) -> dict[str, float]:
    return {p.name: p.ready_seconds for p in workload.parameters}


def warnings(p: gst.Profile) -> list[str]:
    """Without what a busy machine may cause."""
    return [warning for warning in p.recording.warnings if "differ much" not in warning]


@pytest.mark.parametrize("given", [True, False])
def test_frozen_tied_and_unused_parameters(given: bool) -> None:
    model = Net()
    optimizer = sgd(model)
    with gst.profile(*((model, optimizer) if given else ()), warmup=1) as p:
        train(model, optimizer)
    assert p.steps == 3
    times = ready(p.workload)
    assert list(times) == ["unused", "first.weight", "first.bias", "last.weight", "last.bias"]
    assert times["last.weight"] + SLEEP <= times["first.weight"]  # where it is used last
    assert times["unused"] == p.workload.backward_seconds
    (warning,) = warnings(p)
    assert "'unused' never got a gradient" in warning
    assert (p.workload.name, p.workload.batch_size) == ("Net", 6)


def test_hooks_are_gone_afterwards() -> None:
    backward = torch.autograd.backward
    model = Net()
    with gst.profile(warmup=0) as p:
        train(model, sgd(model), 2)
        with pytest.raises(gs.Error, match="already"), gst.profile():
            pass
    train(model, sgd(model), 2)
    assert p.steps == 2
    assert torch.autograd.backward is backward
    with gst.profile(warmup=0) as again:
        train(model, sgd(model), 1)
    assert again.steps == 1


def test_only_so_many_steps() -> None:
    model = nn.Linear(4, 2)
    with gst.profile(warmup=2, steps=3) as p:
        optimizer = sgd(model)
        train(model, optimizer, 4)
        assert not p.done
        train(model, optimizer, 9)
    assert p.done
    assert p.steps == 3
    assert warnings(p) == []


def test_an_optimizer_that_takes_the_place_of_another() -> None:
    model = nn.Linear(4, 2)
    with gst.profile(warmup=0) as p:
        train(model, sgd(model), 3)
        train(model, torch.optim.Adam(model.parameters()), 3)  # the first of these decides
    assert p.steps == 3 + 1
    with gst.profile(model, sgd(model), warmup=0) as p:
        train(model, sgd(model), 3)
    assert p.steps == 0


def test_accumulated_gradients() -> None:
    """The last backward is the step's; the micro-batches before it are its forward."""
    model = Net()
    optimizer = sgd(model)
    with gst.profile(warmup=1) as p:
        for _ in range(3):
            for _ in range(3):
                model(torch.randn(6, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    workload = p.workload
    assert workload.batch_size == 18
    assert workload.forward_seconds >= 2 * SLEEP
    assert workload.backward_seconds >= SLEEP
    assert workload.backward_seconds < workload.forward_seconds
    assert ready(workload)["last.weight"] < SLEEP


def test_what_is_between_steps_is_left_out() -> None:
    model = Net()
    optimizer = sgd(model)
    with gst.profile(warmup=0) as p:
        for _ in range(3):
            train(model, optimizer, 1)
            CLOCK.spend(0.3)
            with torch.no_grad():
                model(torch.randn(100, 4))
            CLOCK.spend(0.3)
    assert p.workload.compute_seconds < 0.3
    assert p.workload.batch_size == 6


def test_two_models_that_alternate() -> None:
    """As in a GAN: a step goes from one step of the first optimizer to its next."""
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    first, second = sgd(one), sgd(two)
    with gst.profile(warmup=1) as p:
        for _ in range(4):
            train(one, first, 1)
            train(two, second, 1, lambda x: SlowBackward.apply(two(one(x))))
    assert p.steps == 3
    times = ready(p.workload)
    assert len(times) == 4
    assert {p.shape for p in p.workload.parameters} == {(4,), (4, 4)}
    # The second model's backward comes before the last one in the step.
    assert [p.ready_seconds for p in p.workload.parameters][2:] == [0, 0]
    assert p.workload.forward_seconds >= SLEEP


def test_two_optimizers_of_one_model() -> None:
    model = Net()
    heads, rest = sgd(model.last), torch.optim.Adam([*model.first.parameters(), model.unused])
    with gst.profile(warmup=1) as p:
        for _ in range(3):
            heads.zero_grad()
            rest.zero_grad()
            model(torch.randn(6, 4)).square().mean().backward()
            heads.step()
            rest.step()
    assert p.steps == 2
    assert list(ready(p.workload)) == [
        *("unused", "first.weight", "first.bias", "last.weight", "last.bias")
    ]
    assert p.workload.batch_size == 6


def test_a_closure() -> None:
    model = Net()
    optimizer = torch.optim.LBFGS([p for p in model.parameters() if p.requires_grad], max_iter=2)
    x = torch.randn(6, 4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    with gst.profile(warmup=1) as p:
        for _ in range(3):
            optimizer.step(closure)
    assert p.workload.backward_seconds >= SLEEP
    assert p.workload.optimizer_seconds < SLEEP  # without the closure


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant: bool) -> None:
    model = Net()
    optimizer = sgd(model)

    def forward(x: Tensor) -> Tensor:
        middle = checkpoint(model.tied, x.requires_grad_(), use_reentrant=reentrant)
        return model.last(SlowBackward.apply(middle))

    with gst.profile(model, optimizer, warmup=1) as p:
        train(model, optimizer, 3, forward)
    assert p.steps == 2
    times = ready(p.workload)
    assert times["last.weight"] + SLEEP <= times["first.weight"]


def test_tensors_without_a_module() -> None:
    weight = torch.zeros(4, 2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with gst.profile(warmup=1) as p:
        for _ in range(4):
            optimizer.zero_grad()
            (torch.randn(6, 4) @ weight).square().mean().backward()
            optimizer.step()
    assert [(x.name, x.shape) for x in p.workload.parameters] == [("group0.0", (4, 2))]
    assert p.workload.batch_size == 1
    assert any("batch size" in warning for warning in p.recording.warnings)
    assert any("no module" in warning for warning in p.recording.warnings)


def test_inputs_by_keyword_and_a_loss_module() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2, dtype=torch.float64)

        def forward(self, *, x: Tensor) -> Tensor:
            return self.inner(x)

    model, loss = Keyword(), nn.MSELoss()
    optimizer = sgd(model)
    with gst.profile(warmup=0) as p:
        for _ in range(2):
            optimizer.zero_grad()
            loss(model(x=torch.randn(6, 4).double()), torch.zeros(6, 2).double()).backward()
            optimizer.step()
    assert p.workload.batch_size == 6
    assert [(x.name, x.dtype) for x in p.workload.parameters] == [
        ("inner.weight", "float64"),
        ("inner.bias", "float64"),
    ]


def test_a_layer_that_is_thawed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = sgd(model)
    with gst.profile(warmup=2) as p:
        train(model, optimizer, 1)
        model[0].requires_grad_(True)
        train(model, optimizer, 4)
    times = ready(p.workload)
    assert list(times) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert times["1.weight"] < times["0.weight"]
    assert warnings(p) == []


def test_nothing_recorded() -> None:
    with gst.profile() as p:
        pass
    with pytest.raises(gs.Error, match="neither a backward"):
        _ = p.workload
    with pytest.raises(gs.InvalidArgument, match="cannot record 0 steps"):
        gst.profile(steps=0)
    model = nn.Linear(2, 2)
    with gst.profile(model, sgd(model)) as p:  # that it is given an optimizer is no step
        pass
    with pytest.raises(gs.Error, match="neither a backward"):
        _ = p.workload
    with gst.profile(model, sgd(model)) as p:
        model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(gs.Error, match=r"no step of a torch\.optim\.Optimizer was seen, only"):
        _ = p.workload


def test_a_workload_has_the_mean_and_the_distribution_of_its_steps(tmp_path: Path) -> None:
    steps = [StepTimes(f, 2 * f, 0.1, 8, {1: f, 2: 2 * f}, 1) for f in (1.0, 1.0, 1.0, 5.0)]
    infos = [ParameterInfo(2, "a", (3,), "float32"), ParameterInfo(1, "b", (3,), "float32")]
    workload = summarize(steps, infos, "w", None).workload
    assert workload.compute_seconds == pytest.approx(6)
    assert workload.variability.factors == (0.5, 0.5, 0.5, 2.5)
    assert workload.backward_seconds == pytest.approx(2 * workload.forward_seconds)
    assert ready(workload) == pytest.approx({"a": 4.0, "b": 2.0})
    workload.save(tmp_path / "w.toml")
    assert Workload.load(tmp_path / "w.toml") == workload


def test_many_factors_become_quantiles() -> None:
    factors = factors_of([float(i + 1) for i in range(10_000)])
    assert len(factors) == 200
    assert factors[0] < 0.01
    assert factors[-1] == pytest.approx(2, rel=0.01)
    assert sum(factors) == pytest.approx(200, rel=0.001)


def test_modules_that_prepare_data_are_no_forward() -> None:
    """As torchvision's transforms, called on each image while the loader makes a batch."""

    class Normalize(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            CLOCK.spend(SLEEP)
            return image - 0.5

    class Images(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> Tensor:
            return Normalize()(torch.zeros(3, 2, 2))

    model = nn.Linear(12, 2)
    optimizer, loss = sgd(model), nn.MSELoss()
    with gst.profile(warmup=1) as p:
        for images in torch.utils.data.DataLoader(Images(), batch_size=8):
            optimizer.zero_grad()
            loss(model(images.flatten(1)), torch.zeros(8, 2)).backward()
            optimizer.step()
    assert p.steps == 2
    assert p.workload.batch_size == 8  # and not three channels
    assert p.workload.forward_seconds < 4 * SLEEP  # eight images take twice as long


def test_a_loss_module_alone_begins_forward() -> None:
    weight = torch.zeros(4, 2, requires_grad=True)
    optimizer, loss = torch.optim.SGD([weight], lr=0.1), nn.MSELoss()
    with gst.profile(warmup=1) as p:
        for _ in range(3):
            CLOCK.spend(5 * SLEEP)
            optimizer.zero_grad()
            loss(torch.randn(6, 4) @ weight, torch.zeros(6, 2)).backward()
            optimizer.step()
    assert p.workload.batch_size == 6
    assert p.workload.forward_seconds < 5 * SLEEP


def test_an_evaluation_without_no_grad_is_no_forward() -> None:
    model, judge = Net(), nn.MSELoss()
    optimizer = sgd(model)
    with gst.profile(warmup=1) as p:
        for _ in range(4):
            train(model, optimizer, 1)
            model.eval()
            judge(model(torch.randn(100, 4)), torch.zeros(100, 2))
            CLOCK.spend(0.3)
            model.train()
    assert p.steps == 3
    assert p.workload.batch_size == 6
    assert p.workload.compute_seconds < 0.3


@pytest.mark.parametrize("every", [1, 4])
def test_a_teacher_without_gradients_is_told(every: int) -> None:
    """Not what is called in few steps, as an evaluation is."""
    model, teacher = nn.Linear(4, 2), Net()
    optimizer = sgd(model)
    with gst.profile(warmup=1) as p:
        for step in range(9):
            if step % every == 0:
                with torch.no_grad():
                    teacher(torch.randn(6, 4))
            train(model, optimizer, 1)
    told = [text for text in warnings(p) if "without gradients" in text]
    assert len(told) == (every == 1)
    assert all("before forward of 8 of 8 steps" in text for text in told)


def test_an_evaluation_after_each_step_is_not_told() -> None:
    model = Net()
    optimizer = sgd(model)
    with gst.profile(warmup=1) as p:
        for _ in range(4):
            train(model, optimizer, 1)
            with torch.no_grad():
                model.eval()(torch.randn(6, 4))
            model.train()
    assert not [text for text in warnings(p) if "without gradients" in text]


def test_a_model_that_is_trained_in_eval_mode() -> None:
    model = Net().eval()
    with gst.profile(warmup=1) as p:
        train(model, sgd(model), 3, lambda x: (CLOCK.spend(SLEEP), model(x))[1])
    assert p.workload.batch_size == 6


def test_workers_of_a_loader_are_not_recorded() -> None:
    """Nor ended, as the script is after the last step."""
    model = nn.Linear(4, 2)
    recorder = Recorder(warmup=0, steps=2, stop=True)
    with recorder:
        train(model, sgd(model), 2)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                model(torch.zeros(1, 4))
                os.write(writer, b"called")
            finally:
                os._exit(0)
        os.close(writer)
        assert os.read(reader, 10) == b"called"
        os.waitpid(pid, 0)
        os.close(reader)
        with pytest.raises(StopProfiling):
            model(torch.zeros(1, 4))


def test_a_step_within_the_step_of_its_class() -> None:
    """As of a subclass, of whose base class the script has an optimizer, too."""

    class SlowSGD(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            CLOCK.spend(SLEEP)
            made = super().step(closure)
            CLOCK.spend(SLEEP)
            return made

    model = nn.Linear(4, 2)
    sgd(model)
    optimizer = SlowSGD(model.parameters(), lr=0.01)
    with gst.profile(warmup=1) as p:
        train(model, optimizer, 4)
    assert p.steps == 3
    assert p.workload.optimizer_seconds >= 2 * SLEEP


def test_a_step_that_failed_and_is_made_again() -> None:
    class Failing(torch.optim.SGD):
        fails = True

        def step(self, closure: Any = None) -> Any:
            if self.fails:
                self.fails = False
                raise RuntimeError("once")
            return super().step(closure)

    model = nn.Linear(4, 2)
    optimizer = Failing(model.parameters(), lr=0.01)
    with gst.profile(warmup=0) as p:
        with pytest.raises(RuntimeError, match="once"):
            train(model, optimizer, 1)
        train(model, optimizer, 3)
    assert p.steps == 3


def test_the_longest_step_is_named_where_steps_differ_much() -> None:
    """Which of them to leave out by a longer warm-up, say."""
    infos = [ParameterInfo(1, "a", (3,), "float32")]
    steps = [StepTimes(f, f, 0.1, 8, {1: f}, 1) for f in (0.001, 0.002, 7.5, 0.001)]
    (warning,) = summarize(steps, infos, "w", None).warnings
    assert "step 3 after the warm-up took 15 s, the median 3 ms" in warning
    assert summarize(steps[:1], infos, "w", None).warnings == ()


def test_medians_lie_between_two_steps(capsys: pytest.CaptureFixture[str]) -> None:
    infos = [ParameterInfo(1, "a", (3,), "float32")]
    steps = [StepTimes(f, 3 * f, f, 8, {1: f}, 1) for f in (0.010, 0.020, 0.010, 0.020)]
    show(summarize(steps, infos, "w", None))
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith(" optimizer")]
    assert line.split() == [
        *("optimizer", "15.00", "ms", "15.00", "ms", "10.00", "ms", "20.00", "ms")
    ]
