"""Schedules, param groups and parameters without gradients: as in torch, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gearshift as gs

torch = pytest.importorskip("torch")

from gearshift_testing import learning_tasks as tasks  # noqa: E402
from gearshift_testing.learning import (  # noqa: E402
    THERE_AND_BACK,
    alone,
    assert_equal_models,
    cluster,
    learn,
    workload,
)

pytestmark = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without SimGrid"
)

KEPT_RATE = gs.ParameterServer(gs.ASP(), lr_scaling="keep")


@pytest.mark.parametrize(
    "task",
    [
        "one_cycle",
        "in_steps",
        "in_epochs",
        "groups_sgd",
        "groups_adam",
        "groups_adamw",
        "uneven_sgd",
        "uneven_adamw",
        "adagrad",
        "sparse",
    ],
)
@pytest.mark.parametrize(
    ("workers", "strategy"),
    [
        (1, "ps:asp"),
        (2, "all_reduce"),
        (2, "ps:bsp"),
        (3, "ps:bsp(shards=2)"),
        (3, THERE_AND_BACK),
    ],
    ids=["asp-1", "all_reduce-2", "bsp-2", "bsp-3", "switch-3"],
)
def test_as_one_process(task: str, workers: int, strategy: Any, tmp_path: Path) -> None:
    learn(task, cluster(workers), strategy, tmp_path / "model.pt")
    assert_equal_models(tmp_path / "model.pt", alone(task, workers))


def test_as_one_process_between_sites(tmp_path: Path) -> None:
    """Where three buckets, each of a parameter, are in flight."""
    thin = {"bandwidth": "100 Mbit/s", "latency": "5 ms"}
    sites = {
        "hosts": [{"name": name, "count": 2, "zone": name} for name in ("north", "south")],
        "zones": [{"name": name, **thin} for name in ("north", "south")],
        "variability": {"kind": "normal", "spread": 0.1},
    }
    learn("groups_adamw", sites, "all_reduce(bucket_mb=0.0001)", tmp_path / "model.pt")
    assert_equal_models(tmp_path / "model.pt", alone("groups_adamw", 4))


def test_what_nobody_uses_stays_as_it_was(tmp_path: Path) -> None:
    """Weight decay and momentum would move it, had it a gradient of zeros."""
    learn("uneven_sgd", cluster(2), "all_reduce", tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    before = tasks.uneven_sgd().model.state_dict()
    assert torch.equal(state["never.weight"], before["never.weight"])
    assert not torch.equal(state["one.weight"], before["one.weight"])


def test_what_one_asynchronous_worker_uses_the_others_do_not_touch(tmp_path: Path) -> None:
    """Nor do they, at other steps of the schedule, change the rate at which it is updated."""
    late = cluster(3, stragglers=[{"host": "n-0", "factor": 6.0}])  # sees all that is done
    learn("lonely", late, KEPT_RATE, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.testing.assert_close(state["own"], tasks.lonely_alone(30), rtol=1e-12, atol=0)


def test_a_schedule_changes_no_time() -> None:
    plain, scheduled = (learn(task, cluster(3), "ps:asp") for task in ("adam", "in_steps"))
    assert plain.step_seconds == scheduled.step_seconds
    assert plain.curve[-1].loss != scheduled.curve[-1].loss


@pytest.mark.parametrize(
    ("task", "kind", "told"),
    [
        ("scheduler_of_another", gs.InvalidArgument, "scheduler is of another optimizer"),
        ("forgotten_scheduler", gs.InvalidArgument, r"give it as .*scheduler=\.\.\."),
        ("plateau", gs.Unsupported, "scheduler is a ReduceLROnPlateau, which decides by a metric"),
        ("no_epochs", gs.InvalidArgument, "epoch_scheduler needs steps_per_epoch="),
        ("short_schedule", gs.InvalidArgument, "OneCycleLR has nothing for step 12: "),
        (
            "steps_by_itself",
            gs.InvalidArgument,
            "changed lr of the optimizer's param group 1 from 0.02 to 0.5 in worker ., step 1:",
        ),
        ("begun", gs.Unsupported, "has state already"),
    ],
)
def test_what_cannot_be_followed(task: str, kind: type[gs.Error], told: str) -> None:
    with pytest.raises(kind, match=told):
        learn(task, cluster(2), "all_reduce", workload=workload(tasks.sgd()))
