"""The metrics of use cases are of as many samples as they say, and none of those is learnt from."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import torch

NAMES = ("digits", "fashion_mnist", "movielens", "text")


@pytest.mark.parametrize("name", NAMES)
def test_the_metric_is_of_as_many_as_it_says(name: str) -> None:
    module = importlib.import_module(f"gearshift.study.tasks.{name}")
    training = module.training()
    seen = 0

    def count(model: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal seen
        seen += inputs[0].numel() if name == "text" else len(inputs[0])

    training.model.register_forward_hook(count)
    with torch.no_grad():
        training.evaluate(training.model)
    told = re.search(r"([\d,]+) (test images|held-out)", module.METRIC)
    assert told is not None
    assert seen == int(told[1].replace(",", ""))


def test_ratings_that_are_held_out_are_not_learnt_from() -> None:
    """With those of a pass they are all ratings, and people rate a film once."""
    module = importlib.import_module("gearshift.study.tasks.movielens")
    training = module.training()
    tested: list[tuple[int, int]] = []

    def remember(model: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        tested.extend(zip(*(part.tolist() for part in inputs), strict=True))

    steps = 90_000 // module.BATCH
    batches = [training.batch(0, step, 1) for step in range(1, steps + 1)]
    learnt = {pair for b in batches for pair in zip(b[0].tolist(), b[1].tolist(), strict=True)}
    assert len(learnt) == steps * module.BATCH
    training.model.register_forward_pre_hook(remember)
    with torch.no_grad():
        training.evaluate(training.model)
    assert len(set(tested)) == 10_000
    assert not learnt & set(tested)
