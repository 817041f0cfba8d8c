"""Steps that repeat and are not simulated, from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gearshift as gs
from gearshift.cli import main
from gearshift.sim.batch import Batch, Job, Settings
from gearshift.sim.display import Silent
from gearshift.sim.inputs import read_cluster, read_workload
from gearshift.sim.messages import Fidelity
from gearshift.sim.processes import Pool
from gearshift.sim.result import Result, margin

pytestmark = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without SimGrid"
)

CLUSTER = """
[[hosts]]
name = "n"
count = 10
bandwidth = "1 Gbit/s"
"""
WORKLOAD = """
batch_size = 8
forward = "10 ms"
backward = "20 ms"
parameters = [{ name = "a", shape = [512, 512] }, { name = "b", shape = [256] }]
"""
STRATEGIES = ["all_reduce:tree", "ps:bsp(shards=1)"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_result_is_that_of_all_steps(strategy: str) -> None:
    reported: list[int] = []
    some = gs.simulate(CLUSTER, WORKLOAD, strategy, steps=200, progress=reported.append)
    every = gs.simulate(CLUSTER, WORKLOAD, strategy, steps=200, every_step=True)
    assert every.skipped is None
    assert every.simulated_steps == every.steps == 200
    assert some.skipped is not None
    assert some.simulated_steps == 200 - (some.skipped.last - some.skipped.first + 1) < 20
    assert len(reported) == some.simulated_steps
    assert reported[-1] == 200
    assert figures(some) == pytest.approx(figures(every), rel=1e-12)
    for left_out, simulated in zip(some.raw["workers"], every.raw["workers"], strict=True):
        assert left_out["end"] == pytest.approx(simulated["end"], rel=1e-12)
        for count in ("bytes_sent", "messages_sent", "staleness"):
            assert left_out[count] == simulated[count]
    assert some.raw["links"] == every.raw["links"]
    assert str(some.skipped) in some.summary()
    assert some.to_dict()["skipped"]["last"] == some.skipped.last


def figures(result: Result) -> list[float]:
    """Those that people look at."""
    return [
        result.throughput,
        result.efficiency,
        result.exposed_share,
        result.step_seconds.mean,
        result.step_seconds.p95,
        result.waiting.exposed,
        result.waiting.slower_workers,
        result.virtual_seconds,
        float(result.messages),
        float(result.bytes_sent),
    ]


VARIED = CLUSTER + '[variability]\nkind = "normal"\nspread = 0.01\n'


def test_what_may_change_is_simulated() -> None:
    result = gs.simulate(VARIED, WORKLOAD, "all_reduce:tree", steps=60, steady_tolerance=0)
    assert result.skipped is None
    assert result.simulated_steps == 60
    kept = gs.simulate(CLUSTER, WORKLOAD, "all_reduce:tree", steps=60, timeline=True)
    assert kept.skipped is None
    waiting = gs.simulate(CLUSTER, WORKLOAD, "switch(at=20)", steps=30)
    assert waiting.switches[0]["step"] == 20
    assert waiting.skipped is None or waiting.skipped.first > 21


@pytest.mark.parametrize(
    ("strategy", "steps", "at_most"),
    [
        ("all_reduce:tree", 200, 100),
        ("ps:bsp", 200, 100),
        ("ps:ssp(2)", 600, 300),  # asynchronous workers are watched for 250 steps
        ("ps:asp", 600, 300),
    ],
)
def test_the_rest_is_estimated_once_the_mean_is_known(
    strategy: str, steps: int, at_most: int
) -> None:
    every = gs.simulate(VARIED, WORKLOAD, strategy, steps=steps, every_step=True)
    some = gs.simulate(VARIED, WORKLOAD, strategy, steps=steps)
    assert not every.estimated
    assert every.half_width == 0
    assert some.estimated
    assert not some.unsettled
    assert 0 < some.half_width <= 0.01
    assert some.simulated_steps <= at_most
    skipped = some.skipped
    assert skipped is not None
    window = f"{skipped.first - skipped.period}..{skipped.first - 1}"
    said = f"steps {skipped.first}..{skipped.last} estimated from {window}, mean ±"
    assert said in some.summary()
    assert "% (95 %)" in some.summary()
    assert some.to_dict()["skipped"]["estimated"] is True
    assert some.to_dict()["skipped"]["half_width"] == some.half_width
    assert some.step_seconds.mean == pytest.approx(every.step_seconds.mean, rel=0.01)
    assert some.throughput == pytest.approx(every.throughput, rel=0.01)
    assert some.step_seconds.p95 == pytest.approx(every.step_seconds.p95, rel=0.03)
    assert some.bytes_sent == pytest.approx(every.bytes_sent, rel=1e-3)
    assert some.messages == pytest.approx(every.messages, rel=0.01)
    assert sum(some.staleness.values()) == sum(every.staleness.values())
    again = gs.simulate(VARIED, WORKLOAD, strategy, steps=steps)
    assert again.raw["workers"] == some.raw["workers"]


def test_few_steps_of_asynchronous_workers_are_said_to_be_few() -> None:
    few = gs.simulate(VARIED, WORKLOAD, "ps:asp", steps=20)
    assert few.unsettled
    assert few.to_dict()["unsettled"] is True
    assert "steps=1000 tells" in few.summary()
    for strategy, steps in (("ps:bsp", 20), ("ps:asp", 250)):
        found = gs.simulate(VARIED, WORKLOAD, strategy, steps=steps)
        assert not found.unsettled
        assert "steps=1000" not in found.summary()


def test_a_margin_is_never_less_than_it_is() -> None:
    assert margin(0.00801) == "±0.9 %"
    assert margin(0.0001) == "±0.1 %"
    assert margin(0.0) == "±0.0 %"


def test_a_tolerance_is_a_share() -> None:
    with pytest.raises(gs.InvalidArgument, match=r"steady_tolerance=1: must be a share"):
        gs.simulate(CLUSTER, WORKLOAD, "ps:asp", steady_tolerance=1)


def test_how_links_are_shared_can_be_chosen() -> None:
    seconds = {
        sharing: gs.simulate(CLUSTER, WORKLOAD, "all_reduce:tree", steps=5, sharing=sharing)
        for sharing in ("auto", "max_min", "per_link", "none")
    }
    assert seconds["auto"].virtual_seconds == seconds["per_link"].virtual_seconds  # ten processes
    assert seconds["auto"].virtual_seconds != seconds["max_min"].virtual_seconds
    assert seconds["none"].virtual_seconds < 0.99 * seconds["per_link"].virtual_seconds
    with pytest.raises(gs.InvalidArgument, match="sharing='fair': must be one of auto, max_min"):
        gs.simulate(CLUSTER, WORKLOAD, "all_reduce", sharing="fair")


def test_progress_counts_what_is_left_out() -> None:
    class Counter(Silent):
        done = 0

        def advance(self, count: int) -> None:
            self.done += count

    display = Counter()
    batch = Batch(Settings(steps=100, fidelity=Fidelity("per_link")), Pool(1), display)
    results = batch.run(
        [Job(read_cluster(CLUSTER), read_workload(WORKLOAD), name) for name in STRATEGIES]
    )
    assert all(isinstance(result, Result) and result.skipped for result in results)
    assert display.done == 200


def command(folder: Path, *arguments: str, cluster: str = CLUSTER) -> dict[str, Any]:
    """The summary of a run of the command."""
    (folder / "c.toml").write_text(cluster, encoding="utf-8")
    (folder / "w.toml").write_text(WORKLOAD, encoding="utf-8")
    files = ("-c", str(folder / "c.toml"), "-w", str(folder / "w.toml"), "--out", str(folder))
    with pytest.raises(SystemExit) as caught:
        main(["simulate", *files, "-s", "all_reduce:tree", "--steps", "50", *arguments])
    assert not caught.value.code
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def test_the_command_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [result] = command(tmp_path)["results"]
    skipped = result["skipped"]
    assert f"- all_reduce:tree: steps {skipped['first']}..{skipped['last']} repeat" in (
        capsys.readouterr().out
    )
    assert result["simulated_steps"] < 20
    [result] = command(tmp_path, "--every-step", "--sharing", "max_min")["results"]
    assert (result["skipped"], result["simulated_steps"]) == (None, 50)
    assert "repeat" not in capsys.readouterr().out


def test_the_command_says_what_it_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("--steps", "150")
    [result] = command(tmp_path, *steps, cluster=VARIED)["results"]
    skipped = result["skipped"]
    assert skipped["estimated"]
    assert 0 < skipped["half_width"] <= 0.01
    assert result["simulated_steps"] < 100
    shown = capsys.readouterr().out
    assert f"- all_reduce:tree: steps {skipped['first']}..{skipped['last']} estimated" in shown
    assert "% (95 %)" in shown
    [result] = command(tmp_path, *steps, "--steady-tolerance", "0", cluster=VARIED)["results"]
    assert (result["skipped"], result["simulated_steps"]) == (None, 150)


def test_a_sweep_says_what_is_estimated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    sweep = ("--steps", "150", "--sweep", "workers=2,4")
    document = command(tmp_path, *sweep, cluster=VARIED)
    rows = document["rows"]
    assert [row["estimated"] for row in rows] == [True, True]
    assert all(row["simulated_steps"] < 100 for row in rows)
    assert all(0 < row["half_width"] <= 0.01 for row in rows)
    assert "- 2 of 2 are estimated from the steps that were simulated" in capsys.readouterr().out
    with (tmp_path / "sweep.csv").open(encoding="utf-8") as file:
        assert {"simulated_steps", "estimated", "half_width"} <= set(
            file.readline()[:-1].split(",")
        )


def test_the_command_refuses_an_unknown_way_to_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["simulate", "-c", "c.toml", "-w", "w.toml", "--sharing", "fair"])
    assert caught.value.code == 2
    assert "must be one of" in capsys.readouterr().err
