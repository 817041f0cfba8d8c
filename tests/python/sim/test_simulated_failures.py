"""Hosts that fail in a simulation, from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gearshift as gs
from gearshift.cli import app
from gearshift.errors import InvalidArgument

pytest.importorskip("gearshift._sim", reason="built without the simulator")

CLUSTER = """
name = "four"
[[hosts]]
name = "node"
count = 4
bandwidth = "1 Gbit/s"
[[failures]]
host = "node-2"
at = 0.35
"""
WORKLOAD = """
name = "small"
batch_size = 8
forward = 0.05
backward = 0.05
optimizer = 0.001
parameters = [{name = "weight", shape = [1000, 100]}]
"""


def test_a_host_that_fails_ends_training() -> None:
    result = gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=10, warmup=1, detection=2)
    assert result.failure is not None
    assert "host node-2 failed after 0.35 s" in result.failure
    assert len(result.raw["workers"][0]["end"]) == 3 == result.steps_done
    assert result.virtual_seconds == pytest.approx(2.35, abs=0.2)
    assert "ended early after 3 steps: host node-2 failed" in result.summary()
    with pytest.raises(gs.Error, match="before the warm-up was over: host node-2 failed"):
        gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=10, warmup=4, detection=2)


@pytest.mark.parametrize(("every", "kept"), [(0, 0), (2, 2)])
def test_training_goes_on_from_the_checkpoint_when_the_host_is_back(every: int, kept: int) -> None:
    cluster = CLUSTER + "recovers_at = 5\n"
    result = gs.simulate(
        cluster, WORKLOAD, "ps:bsp", steps=6, warmup=1, detection=2, checkpoint_every=every
    )
    assert result.failure is None
    assert result.restarts == 1
    assert result.repeated_steps == 4 * (3 - kept)
    begins = result.raw["workers"][1]["begin"]
    assert len(begins) == 6
    assert begins[kept] == pytest.approx(5, abs=0.2)
    assert "done twice" in result.summary()


@pytest.mark.parametrize("strategy", ["all_reduce", "ps:bsp"])
@pytest.mark.parametrize("every", [0, 1, 2])
def test_an_outage_is_part_of_the_time_wherever_the_checkpoint_is(
    strategy: str, every: int
) -> None:
    cluster = CLUSTER + "recovers_at = 5\n"
    result = gs.simulate(
        cluster, WORKLOAD, strategy, steps=6, warmup=1, detection=2, checkpoint_every=every
    )
    first_step = result.raw["workers"][0]["first_begins"][1]
    assert first_step == pytest.approx(0.1, abs=0.02)
    seconds = result.virtual_seconds - first_step
    assert result.throughput == pytest.approx(4 * 5 * 8 / seconds, rel=0.05)
    assert result.step_seconds.most < 0.2
    assert 0 < result.exposed_share < 0.5
    assert result.waiting.exposed < 0.1


def test_what_a_step_that_failed_waited_for_is_no_share_of_the_others() -> None:
    result = gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=10, warmup=1, detection=2)
    assert 0 < result.exposed_share < 0.5
    assert result.waiting.exposed < 0.1


def test_wrong_values_are_named() -> None:
    with pytest.raises(InvalidArgument, match="checkpoint_every=-1"):
        gs.simulate(CLUSTER, WORKLOAD, "all_reduce", checkpoint_every=-1)
    with pytest.raises(InvalidArgument, match="detection=-2"):
        gs.simulate(CLUSTER, WORKLOAD, "all_reduce", detection=-2)


def test_the_command_says_what_happened(tmp_path: Path) -> None:
    files = {"c.toml": CLUSTER + "recovers_at = 5\n", "w.toml": WORKLOAD}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    arguments = f"simulate -c {tmp_path}/c.toml -w {tmp_path}/w.toml --out {tmp_path}/out"
    options = "--steps 6 --detection 2 --checkpoint-every 1"
    outcome = CliRunner().invoke(app, [*arguments.split(), *options.split()])
    assert outcome.exit_code == 0, outcome.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["results"][0]["restarts"] == 1
    assert "restarted once after failures" in outcome.output


@pytest.mark.parametrize("steps", [4, 10])  # it fails before the warm-up is over, and after it
@pytest.mark.parametrize(
    "options", ["-s all_reduce", "--sweep workers=2,4", "--recommend -s all_reduce"]
)
def test_a_training_that_fails_is_no_wrong_input(tmp_path: Path, steps: int, options: str) -> None:
    if "sweep" in options:
        pytest.importorskip("pyarrow")
        pytest.importorskip("matplotlib")
    for name, text in {"c.toml": CLUSTER, "w.toml": WORKLOAD}.items():
        (tmp_path / name).write_text(text)
    warmup = 3 if steps == 4 else 1
    arguments = f"simulate -c {tmp_path}/c.toml -w {tmp_path}/w.toml --out {tmp_path}/out"
    more = f"--steps {steps} --warmup {warmup} --detection 2 {options}"
    outcome = CliRunner().invoke(app, [*arguments.split(), *more.split()])
    if steps == 10 and options == "-s all_reduce":  # what was measured until then is an outcome
        assert outcome.exit_code == 0, outcome.output
        assert "training ended early" in outcome.output
        return
    assert outcome.exit_code == 1, outcome.output
    assert "failed after 0.35 s of training" in outcome.output
