"""Measured cells: real jobs on shaped namespaces, which learn what simulated ones do."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import gearshift as gs
from gearshift.sim.inputs import Source, read_cluster, read_workload
from gearshift.sim.processes import Pool
from gearshift.study import measured, namespaces
from gearshift.study.cell import MEASURED, ClusterCase, Study, UseCase

pytest.importorskip("gearshift._sim")
pytest.importorskip("torch")

TASK = Path(__file__).with_name("measured_task.py")
BATCH, STEPS, EVERY = 8, 12, 3
WORKLOAD = {
    "batch_size": BATCH,
    "forward": 0.004,
    "backward": 0.004,
    "optimizer": 0.001,
    "parameters": [
        {"name": "0.weight", "shape": [16, 6], "dtype": "float64"},
        {"name": "0.bias", "shape": [16], "dtype": "float64"},
        {"name": "1.weight", "shape": [16], "dtype": "float64"},
        {"name": "1.bias", "shape": [16], "dtype": "float64"},
        {"name": "4.weight", "shape": [3, 16], "dtype": "float64"},
        {"name": "4.bias", "shape": [3], "dtype": "float64"},
    ],
}


def cluster(workers: int, **more: Any) -> Source:
    hosts = [{"name": f"n-{i}", "bandwidth": "1 Gbit/s"} for i in range(workers)]
    return read_cluster({"hosts": hosts, **more})


def study(source: Source, strategy: str, task: str = "training") -> Study:
    workers = int(namespaces.describe_cluster(source.text, source.name)["workers"])
    use_case = UseCase(
        name="tiny",
        title="Tiny",
        task=f"{TASK}:{task}",
        workload=read_workload(WORKLOAD),
        samples=STEPS * workers * BATCH,
        metric="minus the loss",
        target=0.0,
        evaluations=STEPS // EVERY,
    )
    case = ClusterCase("here", "Here", source, (MEASURED,))
    return Study("s", "S", (use_case,), (case,), (strategy,), (3,))


def run(made: Study) -> Any:
    reason = measured.why_not(made.clusters[0])
    if reason is not None:
        pytest.skip(f"no cell can be measured here: {reason}")
    (cell,) = made.cells()
    return measured.measure(made, cell, made.use_cases[0].task)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computation that is late is no reason to run again: what is learnt does not depend on it, and
    other tests run at the same time."""
    monkeypatch.setattr(measured, "DELAY", math.inf)
    monkeypatch.setattr(measured, "MOST_DELAY", math.inf)


@pytest.fixture
def known_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial is made of what a step costs."""
    monkeypatch.setattr(measured, "_trial", lambda work, processes: 0.004)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("strategy", "workers"),
    [("all_reduce", 2), ("local_sgd(5)", 2), ("ps:bsp", 2), ("ps:asp", 1)],
)
def test_learns_what_a_simulated_cell_learns(
    strategy: str, workers: int, request: pytest.FixtureRequest, forked_pool: Pool
) -> None:
    if workers > 1:  # once with a trial is enough
        request.getfixturevalue("known_cost")
    source = cluster(workers)
    outcome = run(study(source, strategy))
    simulated = gs.simulate(
        source,
        WORKLOAD,
        strategy,
        steps=STEPS,
        seed=3,
        train=f"{TASK}:training",
        evaluate_every=EVERY,
        every_step=True,
        pool=forked_pool,
    )
    assert [point.step for point in outcome.curve] == [3, 6, 9, 12]
    for ours, theirs in zip(outcome.curve, simulated.curve, strict=True):
        assert (ours.step, ours.loss, ours.metric) == pytest.approx(
            (theirs.step, theirs.loss, theirs.metric), rel=1e-9
        )
    for point in outcome.curve:
        ahead = point.samples - point.step * workers * BATCH
        if strategy == "local_sgd(5)":  # between two rounds nobody waits
            assert abs(ahead) <= 5 * BATCH
        else:  # others wait for worker 0's steps, with the next gradient ready
            assert ahead in range(0, workers * BATCH, BATCH)
    assert outcome.curve[-1].samples == STEPS * workers * BATCH
    assert outcome.steps == STEPS
    assert outcome.workers == workers
    assert (outcome.mean_staleness is None) == (strategy in ("all_reduce", "local_sgd(5)"))


@pytest.mark.netns
@pytest.mark.usefixtures("known_cost")
def test_a_training_that_runs_away_is_an_outcome() -> None:
    outcome = run(study(cluster(2), "all_reduce", "runaway"))
    assert "diverged after step 3 at " in outcome.diverged
    assert "the loss is nan" in outcome.diverged
    assert [point.step for point in outcome.curve] == [3]


@pytest.mark.netns
def test_a_task_that_fails_is_told_and_nothing_is_left() -> None:
    with pytest.raises(gs.Error, match="no such label"):
        run(study(cluster(2), "ps:asp", "broken"))
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert f"gss{os.getpid()}" not in left.stdout
