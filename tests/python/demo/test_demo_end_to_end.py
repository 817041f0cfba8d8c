"""The whole demo, on few images: what a newcomer sees and keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gearshift.launch
from gearshift.data.fashion_mnist import DEFAULT_FOLDER
from gearshift.demo import STRATEGIES
from gearshift.demo.run_folder import read_metrics

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEFAULT_FOLDER.exists(), reason="no dataset-fashion-mnist"),
]

WORKERS, EPOCHS, LIMIT = 2, 2, 4000


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder and the output of one small demo."""
    folder = tmp_path_factory.mktemp("demo")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")}
    environment["PYTHONPATH"] = str(Path(gearshift.launch.__file__).parents[2])
    options = ["--workers", str(WORKERS), "--epochs", str(EPOCHS), "--limit", str(LIMIT)]
    ended = subprocess.run(
        [sys.executable, "-m", "gearshift.cli", "demo", "--out", str(folder), *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder, ended.stdout


def test_summary_comes_from_what_was_measured(demo):
    folder, _ = demo
    summary = json.loads((folder / "summary.json").read_text())
    assert [run["strategy"] for run in summary["runs"]] == list(STRATEGIES)
    for run in summary["runs"]:
        assert run["samples"] == EPOCHS * LIMIT
        assert 0.5 < run["test_accuracy"] < 1
        assert run["bytes_sent_per_worker"] > 0
        assert run["seconds"] > run["train_seconds"] > 0
        epochs = [row for row in read_metrics(folder / run["strategy"]) if "test_accuracy" in row]
        assert [row["epoch"] for row in epochs] == list(range(1, EPOCHS + 1))
        assert epochs[-1]["test_accuracy"] == run["test_accuracy"]
    all_reduce, _, switch = summary["runs"]
    assert (all_reduce["max_staleness"], all_reduce["switch_step"]) == (0, None)
    assert 0 < switch["switch_step"] < switch["steps"]


def test_the_switch_really_happens_and_is_logged(demo):
    folder, _ = demo
    rows = read_metrics(folder / "strategy_switch")
    in_force = [row["strategy"] for row in rows]
    assert in_force[0] != in_force[-1]
    lines = (folder / "strategy_switch" / "decisions.jsonl").read_text().splitlines()
    assert len(lines) >= 1
    assert all("step" in json.loads(line) for line in lines)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_run_folders_are_complete(demo, strategy):
    folder = demo[0] / strategy
    config = tomllib.loads((folder / "config.toml").read_text())
    assert (config["strategy"], config["workers"], config["limit"]) == (strategy, WORKERS, LIMIT)
    weights = safetensors.load_file(folder / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == config["parameters"]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_weights_load_without_gearshift_and_are_as_accurate_as_said(demo):
    from gearshift.demo.model import build_model
    from gearshift.demo.train import load_tensors, scaled

    folder, _ = demo
    model = build_model()
    model.load_state_dict(safetensors.load_file(folder / "all_reduce" / "model.safetensors"))
    images, labels = load_tensors("test", None, None).tensors
    with torch.no_grad():
        accuracy = (model(scaled(images)).argmax(1) == labels).float().mean().item()
    said = json.loads((folder / "all_reduce" / "result.json").read_text())["test_accuracy"]
    assert accuracy == pytest.approx(said, abs=1e-3)


def test_output_is_readable_in_a_log(demo):
    folder, out = demo
    assert "\x1b" not in out
    assert (folder / "curves.png").stat().st_size > 10_000
    for strategy in STRATEGIES:
        assert f"{strategy}: starting" in out
        assert f"{strategy}: done" in out
        assert f" {strategy}" in out.rpartition("strategy ")[2]
