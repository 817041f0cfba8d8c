"""Local SGD in simulations: steps of unequal length, most of which have no round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gearshift as gs
from gearshift.sim.result import Result

pytestmark = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without the simulator"
)

IDEAL = {
    "local_bandwidth": 1e15,
    "local_latency": 0,
    "per_message": 0,
    "reduce_bandwidth": 1e15,
    "update_bandwidth": 1e15,
    "copy_bandwidth": 1e15,
}
ROUND = 2 * 0.75 * 1e8 / 1e9
"""Seconds of an all-reduce of 100 MB between four hosts of 1 GB/s."""


def cluster(workers: int = 4, **more: Any) -> dict[str, Any]:
    host = {"name": "n", "count": workers, "bandwidth": 1e9, "latency": 0, **IDEAL}
    return {"hosts": [host], **more}


WORKLOAD = {
    "batch_size": 8,
    "forward": "10 ms",
    "backward": "20 ms",
    "optimizer": "5 ms",
    "parameters": [{"name": "w", "shape": [25_000_000]}],
}


def simulate(strategy: str, where: dict[str, Any] | None = None, **options: Any) -> Result:
    return gs.simulate(where or cluster(), WORKLOAD, strategy, **options)


@pytest.mark.parametrize(("every", "steps"), [(1, 20), (4, 20), (8, 20), (32, 100)])
def test_the_mean_step_has_its_share_of_a_round(every: int, steps: int) -> None:
    found = simulate(f"local_sgd({every})", steps=steps)
    assert found.step_seconds.mean == pytest.approx(0.035 + ROUND / every, rel=1e-3)
    assert found.step_seconds.most == pytest.approx(0.035 + ROUND, rel=1e-3)
    assert found.throughput == pytest.approx(32 / (0.035 + ROUND / every), rel=1e-3)
    assert found.waiting.communication == pytest.approx(ROUND / every, rel=1e-3)
    assert found.waiting.slower_workers == pytest.approx(0, abs=1e-6)
    assert found.waiting.hidden == 0
    assert found.efficiency == pytest.approx(0.035 / (0.035 + ROUND / every), rel=1e-3)
    assert not found.unsettled


def test_what_a_worker_waits_for_is_what_the_core_has_counted() -> None:
    """Figures take it from the times of steps, since some of the rounds do not count."""
    where = cluster(3, stragglers=[{"host": "n-1", "factor": 2.0}])
    where["hosts"][0] |= {"latency": "50 us", "per_message": "20 us", "copy_bandwidth": 5e9}
    where["variability"] = {"kind": "normal", "spread": 0.05}
    found = simulate("local_sgd(4)", where, steps=16, warmup=0)
    workers = found.raw["workers"]
    counted = sum(worker["exposed_seconds"] for worker in workers) / (3 * 16)
    assert found.waiting.exposed == pytest.approx(counted, rel=1e-6)
    # Two of three wait for as long as the third takes longer; but for its update, once per round.
    assert found.waiting.slower_workers == pytest.approx(2 / 3 * (0.035 - 0.005 / 4), rel=0.1)
    assert found.exposed_share == pytest.approx(counted / found.step_seconds.mean, rel=1e-6)


def test_a_switch_that_never_happened_is_its_start() -> None:
    found = simulate("switch(start=local_sgd(4), then=all_reduce)", steps=12)
    assert found.idle_switch is not None
    assert found.step_seconds.mean == pytest.approx(0.035 + ROUND / 4, rel=1e-3)


def test_hundreds_of_steps_of_sixteen_workers_take_a_moment() -> None:
    where = {"hosts": [{"name": "n", "count": 16, "bandwidth": "10 Gbit/s"}]}
    found = gs.simulate(where, WORKLOAD, "local_sgd(4)", steps=400)
    assert found.simulated_steps < 100
    full = gs.simulate(where, WORKLOAD, "local_sgd(4)", steps=400, every_step=True)
    assert found.step_seconds.mean == pytest.approx(full.step_seconds.mean, rel=0.01)


def test_the_command_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gearshift.sim.command import SimulateOptions, run

    for name, document in (("c", cluster()), ("w", WORKLOAD)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    files = tmp_path / "c.json", tmp_path / "w.json"
    strategies = ["all_reduce", "local_sgd(8)", "local_sgd(32)"]
    assert run(SimulateOptions(*files, strategies, out=tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "local_sgd(8) **" in shown
    assert "local SGD (**): samples per second say nothing about how much" in shown
    assert "asynchronous" not in shown
    assert "stale gradients" not in shown
    assert "- local_sgd(32): only 20 steps: no whole round of 32 steps" in shown
    assert "--steps 64 tells" in shown
    assert "--steps 1000" not in shown
    sweep = ["bandwidth=1G", "strategy=all_reduce,local_sgd(8),local_sgd(32)"]
    assert run(SimulateOptions(*files, sweep=sweep, out=tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "- local SGD: samples per second say nothing about how much" in shown
    assert "- only 20 steps: no whole round of 32 steps" in shown
    assert "asynchronous" not in shown
    assert run(SimulateOptions(*files, ["all_reduce"], recommend=True, out=tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "With local_sgd(8), workers would train alone and average" in shown
