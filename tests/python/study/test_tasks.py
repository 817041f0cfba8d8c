"""The use cases that come with gearshift: their batches, and that they learn."""

from __future__ import annotations

import importlib

import pytest
import torch

import gearshift.torch as gst
from gearshift.data.dataset_error import DatasetError
from gearshift.data.digits import COUNT
from gearshift.sim.inputs import read_workload
from gearshift.study.tasks._order import Order

NAMES = ("digits", "fashion_mnist", "movielens", "text")
STEPS = {"digits": 150, "fashion_mnist": 60, "movielens": 150, "text": 60}
"""So many of one worker, and the metric that they must reach: far above what chance gives."""
REACHED = {"digits": 0.6, "fashion_mnist": 0.45, "movielens": 0.1, "text": 0.25}


@pytest.fixture(params=NAMES)
def task(request):
    torch.set_num_threads(1)
    return importlib.import_module(f"gearshift.study.tasks.{request.param}")


def learnt(training: gst.SimulatedTraining, steps: int) -> float:
    """The metric after plain PyTorch steps of one worker."""
    for step in range(1, steps + 1):
        training.optimizer.zero_grad()
        training.loss(training.model, training.batch(0, step, 1)).backward()
        training.optimizer.step()
    assert training.evaluate is not None
    training.model.eval()
    with torch.no_grad():
        return training.evaluate(training.model)


def test_a_task_learns(task):
    name = task.__name__.rpartition(".")[2]
    torch.manual_seed(1)
    before = learnt(task.training(), 0)
    torch.manual_seed(1)
    after = learnt(task.training(), STEPS[name])
    assert before < REACHED[name] / 2
    assert before < task.TARGET
    assert after > REACHED[name]


@pytest.mark.parametrize("characters", [80_999, 8_000 * 48 + 1])
def test_a_book_that_is_too_short_is_told(tmp_path, monkeypatch, characters):
    """Also one that has nothing left for the test."""
    (tmp_path / "book.txt").write_text("a book " * (characters // 7) + "." * (characters % 7))
    monkeypatch.setenv("GEARSHIFT_BIBLE", str(tmp_path / "book.txt"))
    with pytest.raises(DatasetError, match=f"has {characters:,} characters, 403,201 are needed"):
        importlib.import_module("gearshift.study.tasks.text").training()


def test_a_task_says_what_a_study_needs(task):
    training = task.training()
    made = training.workload(task.FORWARD, task.BACKWARD, task.OPTIMIZER, task.BATCH)
    document = read_workload(made).document()
    assert document["batch_size"] == task.BATCH
    count = sum(p.numel() for p in training.model.parameters())
    assert sum(torch.Size(p["shape"]).numel() for p in document["parameters"]) == count
    first = training.batch(0, 1, 2)
    assert {len(part) for part in first} == {task.BATCH}
    again = task.training().batch(0, 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = training.batch(1, 1, 2)
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert task.SAMPLES >= 10 * task.BATCH
    assert isinstance(task.TITLE, str)
    assert isinstance(task.METRIC, str)


@pytest.mark.parametrize("workers", [1, 3, 5, 7])
@pytest.mark.parametrize(("count", "batch"), [(24, 4), (25, 4), (3, 8), (1, 2)])
def test_a_pass_has_every_sample_once_whatever_the_workers(workers, count, batch):
    order = Order(count, batch)
    passes = 7
    steps = -(-passes * count // (workers * batch))
    taken = torch.cat(
        [order.chosen(w, step, workers) for step in range(1, steps + 1) for w in range(workers)]
    )
    rounds = [taken[n * count : (n + 1) * count].tolist() for n in range(passes)]
    assert all(sorted(numbers) == list(range(count)) for numbers in rounds)
    assert count < 3 or len({tuple(numbers) for numbers in rounds}) > 1  # each in another order


def test_training_and_test_digits_are_different_images():
    task = importlib.import_module("gearshift.study.tasks.digits")
    training = task.training()
    steps = -(-COUNT // task.BATCH)
    seen = {
        tuple(image.flatten().tolist())
        for step in range(1, steps + 1)
        for image in training.batch(0, step, 1)[0]
    }
    tested: list[torch.Tensor] = []
    training.model.register_forward_hook(lambda module, inputs, output: tested.append(inputs[0]))
    training.evaluate(training.model)
    images = {tuple(image.flatten().tolist()) for image in torch.cat(tested)}
    assert images
    assert not images & seen
