"""Local SGD learnt in a simulation: as several torch models that are averaged now and then."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

import gearshift as gs

torch = pytest.importorskip("torch")

from gearshift_testing import learning_tasks as tasks  # noqa: E402
from gearshift_testing.learning import (  # noqa: E402
    assert_equal_models,
    cluster,
    learn,
    workload,
)

pytestmark = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without SimGrid"
)

STEPS = 30
STRAGGLER = [{"host": "n-1", "factor": 4.0, "from_step": 5}]


class SideBySide:
    """Several trainings of a task in one process, and the outer optimizer, as torch has them."""

    def __init__(self, task: str, workers: int, lr: float = 1, momentum: float = 0) -> None:
        self.trainings = [getattr(tasks, task)() for _ in range(workers)]
        self.models = [training.model for training in self.trainings]
        self.center = copy.deepcopy(self.models[0])
        self._outer = torch.optim.SGD(
            self.center.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0
        )

    def step(self, step: int, together: bool = False) -> None:
        """Each one's own; `together`: with the mean of all gradients."""
        workers = len(self.trainings)
        for worker, training in enumerate(self.trainings):
            training.optimizer.zero_grad()
            training.loss(training.model, training.batch(worker, step, workers)).backward()
        if together:
            for all_of_it in zip(*(m.parameters() for m in self.models), strict=True):
                mean = sum(p.grad for p in all_of_it) / workers
                for parameter in all_of_it:
                    parameter.grad = mean.clone()
        for training in self.trainings:
            training.optimizer.step()
            if training.scheduler is not None:
                training.scheduler.step()
            if training.epoch_scheduler is not None and step % training.steps_per_epoch == 0:
                training.epoch_scheduler.step()

    def anchor(self) -> None:
        """The models are equal: a phase of rounds begins."""
        self.center.load_state_dict(self.models[0].state_dict())

    def average(self) -> None:
        """One round; worker 0's buffers become everybody's."""
        parameters = [list(model.parameters()) for model in self.models]
        for i, center in enumerate(self.center.parameters()):
            center.grad = center.detach() - sum(p[i].detach() for p in parameters) / len(parameters)
        self._outer.step()
        buffers = dict(self.models[0].named_buffers())
        with torch.no_grad():
            for model, own in zip(self.models, parameters, strict=True):
                for p, center in zip(own, self.center.parameters(), strict=True):
                    p.copy_(center)
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])

    def train(self, every: int) -> Any:
        """All steps; the first model."""
        for step in range(1, STEPS + 1):
            self.step(step)
            if step % every == 0 or step == STEPS:
                self.average()
        return self.models[0]


TASKS = [
    "sgd",
    "adam",
    "batch_norm",
    "remembers",
    "one_cycle",
    "in_epochs",
    "groups_adamw",
    "sparse",
]
SIZES = [(1, 4), (2, 1), (3, 7), (2, 50)]


@pytest.mark.parametrize(
    ("task", "workers", "every"),
    [(task, 3, 4) for task in TASKS] + [(t, *size) for t in ("sgd", "remembers") for size in SIZES],
)
def test_as_models_side_by_side(task: str, workers: int, every: int, tmp_path: Path) -> None:
    learn(task, cluster(workers), f"local_sgd({every})", tmp_path / "model.pt")
    assert_equal_models(tmp_path / "model.pt", SideBySide(task, workers).train(every))


def test_the_outer_optimizer_is_that_of_torch(tmp_path: Path) -> None:
    strategy = "local_sgd(4, outer_lr=0.7, outer_momentum=0.9)"
    learn("adam", cluster(3), strategy, tmp_path / "model.pt")
    assert_equal_models(tmp_path / "model.pt", SideBySide("adam", 3, 0.7, 0.9).train(4))


def test_a_straggler_changes_when_and_not_what(tmp_path: Path) -> None:
    plain = learn("sgd", cluster(3), "local_sgd(4)", tmp_path / "plain.pt")
    late = learn("sgd", cluster(3, stragglers=STRAGGLER), "local_sgd(4)", tmp_path / "late.pt")
    assert_equal_models(tmp_path / "late.pt", SideBySide("sgd", 3).train(4))
    assert [p.metric for p in late.curve] == [p.metric for p in plain.curve]
    assert late.virtual_seconds > 2 * plain.virtual_seconds


def test_an_evaluation_between_two_rounds_is_of_worker_0_s_own_model(tmp_path: Path) -> None:
    result = learn("sgd", cluster(3), "local_sgd(8)", evaluate_every=4)
    alone = SideBySide("sgd", 3)
    for point in result.curve:
        for step in range(point.step - 3 if point.step % 4 == 0 else 29, point.step + 1):
            alone.step(step)
            if step % 8 == 0 or step == STEPS:
                alone.average()
        model = copy.deepcopy(alone.models[0]).eval()
        with torch.no_grad():
            assert point.metric == pytest.approx(tasks.evaluate(model), rel=1e-9)
    assert [point.step for point in result.curve] == [4, 8, 12, 16, 20, 24, 28, 30]


@pytest.mark.parametrize("task", ["sgd", "adam"])
def test_as_a_phase_of_a_switch(task: str, tmp_path: Path) -> None:
    """Rounds count from the switch; All-Reduce goes on with worker 0's state of the optimizer."""
    strategy = "switch(start=all_reduce, then=local_sgd(4), at=7, back=21)"
    result = learn(task, cluster(3), strategy, tmp_path / "model.pt")
    assert [switch["step"] for switch in result.switches] == [7, 21]
    found = SideBySide(task, 3)
    for step in range(1, STEPS + 1):
        local = 7 < step <= 21
        found.step(step, together=not local)
        if step == 7:
            found.anchor()
        if local and ((step - 7) % 4 == 0 or step == 21):
            found.average()
        if step == 21:
            state = found.trainings[0].optimizer.state_dict()
            for training in found.trainings[1:]:
                training.optimizer.load_state_dict(copy.deepcopy(state))
    assert_equal_models(tmp_path / "model.pt", found.models[0])


def test_learning_takes_no_virtual_time() -> None:
    result = learn("sgd", cluster(3), "local_sgd(4)")
    plain = gs.simulate(cluster(3), workload(tasks.sgd()), "local_sgd(4)", steps=STEPS)
    assert plain.step_seconds == result.step_seconds
    assert not result.unsettled
