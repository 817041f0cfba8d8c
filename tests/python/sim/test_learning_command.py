"""``gearshift simulate --train`` from the command line to its files, and tasks by their text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import gearshift as gs
from gearshift.cli import main
from gearshift.data.fashion_mnist import DEFAULT_FOLDER
from gearshift.sim import command, task
from gearshift.sim.curve import CurvePoint, Divergence, divergence_of, time_to
from gearshift.sim.table import learning_table

needs_simulator = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without SimGrid"
)

EXAMPLES = Path(__file__).parents[3] / "examples"
CLUSTER = """
[[hosts]]
name = "n"
count = 3
"""
WORKLOAD = """
batch_size = 8
forward = "1 ms"
backward = "2 ms"
parameters = [{ name = "weight", shape = [1, 4] }, { name = "bias", shape = [1] }]
"""
TASK = """
import torch
import gearshift.torch as gst


def loss(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def batch(worker, step, workers):
    x = torch.randn(8, 4)
    return x, x.sum(1, keepdim=True)


def training(lr=0.05):
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return gst.SimulatedTraining(
        model, optimizer, loss, batch, lambda model: 1 - float(loss(model, batch(0, 0, 1)))
    )


def wild():
    return training(lr=1e30)


def fails():
    return missing_name


def endless_epoch():
    made = training()
    made.steps_per_epoch = 2**40
    return made


def measures_nothing():
    made = training()
    made.evaluate = lambda model: float("nan")
    return made
"""


@pytest.fixture
def forked_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations of `gearshift simulate` in this process need not import torch each."""
    pytest.importorskip("torch")
    from gearshift_testing.learning import ForkedPool

    monkeypatch.setattr(command, "Pool", lambda jobs: ForkedPool({}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with c.toml, w.toml and task.py."""
    for name, text in (("c.toml", CLUSTER), ("w.toml", WORKLOAD), ("task.py", TASK)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def simulate(*arguments: str) -> int:
    """The exit code of the command for c.toml and w.toml."""
    with pytest.raises(SystemExit) as caught:
        main(["simulate", "-c", "c.toml", "-w", "w.toml", *arguments])
    return int(caught.value.code or 0)


@needs_simulator
@pytest.mark.usefixtures("forked_simulations")
def test_learning_is_shown_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    strategies = ["all_reduce", "switch(at=15)"]
    options = [option for strategy in strategies for option in ("-s", strategy)]
    more = ("--train", "task.py", "--evaluate-every", "10", "--target", "0.5", "--steps", "60")
    assert simulate(*options, *more) == 0
    shown = capsys.readouterr().out
    assert "learnt, by worker 0" in shown
    assert "metric 0.5" in shown
    assert "← first" in shown
    summary = json.loads((folder / "runs/simulate/summary.json").read_text(encoding="utf-8"))
    assert (summary["train"], summary["target"]) == ("task.py", 0.5)
    assert summary["seconds_to_target"].keys() == set(strategies)
    for result in summary["results"]:
        curve = result["curve"]
        assert [point["step"] for point in curve] == [10, 20, 30, 40, 50, 60]
        assert curve[-1]["metric"] > 0.5
        assert summary["seconds_to_target"][result["strategy"]] < curve[-1]["seconds"]
    assert (folder / "runs/simulate/curves.png").read_bytes().startswith(b"\x89PNG")


@needs_simulator
@pytest.mark.skipif(not DEFAULT_FOLDER.exists(), reason="no dataset-fashion-mnist")
@pytest.mark.usefixtures("forked_simulations")
def test_the_example_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    files = {
        "--cluster": "clusters/four-hosts-1g.toml",
        "--workload": "workloads/fashion-mnist-cnn.toml",
        "--train": "simulation/fashion_mnist.py",
    }
    options = [part for name, path in files.items() for part in (name, str(EXAMPLES / path))]
    with pytest.raises(SystemExit) as caught:
        main(["simulate", *options, "--steps", "40", "--out", str(tmp_path), "--json"])
    assert not caught.value.code
    (point,) = json.loads(capsys.readouterr().out)["results"][0]["curve"]
    assert point["step"] == 40
    assert point["metric"] > 0.4


@needs_simulator
@pytest.mark.usefixtures("forked_simulations")
def test_a_metric_that_is_none_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    options = ("--train", "task.py:measures_nothing", "--evaluate-every", "4", "--target", "0.5")
    assert simulate(*options, "--steps", "8", "-s", "all_reduce", "-s", "ps:asp") == 0
    shown = capsys.readouterr().out
    assert shown.count("NaN") == 1
    assert "- all_reduce and ps:asp: evaluate() returned NaN, which is no metric" in shown
    summary = json.loads((folder / "runs/simulate/summary.json").read_text(encoding="utf-8"))
    assert [result["nan_metrics"] for result in summary["results"]] == [2, 2]
    assert [point["metric"] for point in summary["results"][0]["curve"]] == [None, None]
    task_ = "task.py:measures_nothing"
    result = gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=4, train=task_)
    assert "metric      evaluate() returned NaN" in result.summary()
    with pytest.raises(gs.InvalidArgument, match="metric=nan: must be finite"):
        result.time_to(float("nan"))


@needs_simulator
def test_an_epoch_may_be_longer_than_any_training(folder: Path) -> None:
    pytest.importorskip("torch")
    made = gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=4, train="task.py:endless_epoch")
    same = gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=4, train="task.py")
    assert made.curve == same.curve


@needs_simulator
@pytest.mark.usefixtures("forked_simulations")
def test_divergence_is_an_outcome(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    options = ("--train", "task:wild", "--evaluate-every", "1", "--steps", "30")
    assert simulate("-s", "all_reduce", "-s", "ps:asp", *options, "--json") == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["diverged"]["step"] for result in results] != [None, None]
    assert all(result["diverged"]["seconds"] < result["virtual_seconds"] for result in results)
    assert (folder / "runs/simulate/curves.png").exists()


@needs_simulator
def test_a_task_that_fails_is_told_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    assert simulate("--train", "task.py:fails") == 2
    told = capsys.readouterr().err
    assert "train: fails() of task.py failed:" in told
    assert 'task.py", line 28, in fails\n    return missing_name' in told
    assert "gearshift/sim" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--train", "nowhere.py"], "nowhere.py: No such file"),
        (["--train", "task.py:"], '"task.py:" is no task; write PATH.py, PATH.py:FUNCTION or'),
        (["--train", "task.py", "--recommend"], "--train goes with neither"),
        (["--train", "task.py", "--sweep", "workers=2"], "--train goes with neither"),
        (["--target", "1"], "--target goes with --train only"),
        (["--target", "1", "--sweep", "workers=2"], "--target goes with --train only"),
        (["--evaluate-every", "100"], "--evaluate-every goes with --train only"),
        (["--train", "task.py", "--target", "nan"], "--target nan: must be finite"),
        (["--train", "task.py", "--target", "inf"], "--target inf: must be finite"),
        (["--warmup", "-1"], "warmup=-1: must not be negative"),
    ],
)
def test_wrong_options_are_told(
    arguments: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(*arguments) == 2
    assert told in capsys.readouterr().err


def test_a_task_is_a_file_or_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "plain.py").write_text("def training():\n    return 'made'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    for text in ("plain.py", "plain.py:training", "./plain.py", str(folder / "plain.py"),
                 "plain", "plain:training"):  # fmt: skip
        assert task.make(text) == "made"
    with pytest.raises(gs.InvalidArgument, match='no function "other"; its functions are training'):
        task.make("plain:other")
    with pytest.raises(
        gs.InvalidArgument, match=r"no_such cannot be loaded: there is no module 'no_such'$"
    ):
        task.make("no_such:training")


def test_a_script_that_ends_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "ends.py").write_text("import sys\nsys.exit(3)\n", encoding="utf-8")
    with pytest.raises(
        gs.InvalidArgument, match=r"ends.py cannot be loaded:\n(.*\n)*SystemExit: 3"
    ):
        task.make("ends.py")


def test_the_time_to_a_target_lies_between_two_points() -> None:
    values = (0.2, None, 0.4, 0.3, 0.8)
    points = [CurvePoint(float(i), i, 1.0, value) for i, value in enumerate(values, 1)]
    assert time_to(points, 0.1) == 1.0
    assert time_to(points, 0.3) == pytest.approx(2.0)
    assert time_to(points, 0.55) == pytest.approx(4.5)
    assert time_to(points, 0.9) is None
    assert time_to([], 0.1) is None
    infinite = [
        CurvePoint(float(i), i, 1.0, value) for i, value in enumerate((-math.inf, 0.5, math.inf), 1)
    ]
    assert time_to(infinite, 0.1) == 2.0
    assert time_to(infinite, 0.6) == 3.0


class Learnt:
    """As much of a result as the table of what was learnt looks at."""

    def __init__(self, reached: float, diverged: Divergence | None = None) -> None:
        self.curve = (CurvePoint(reached, 10, 0.5, 0.9),)
        self.diverged = diverged

    def time_to(self, target: float) -> float | None:
        return time_to(self.curve, target)


def test_who_diverges_is_first_nowhere() -> None:
    gone = Divergence(0, 20, 3.0, "loss=inf")
    for results, first in (
        ({"early": Learnt(1.0), "late": Learnt(2.0)}, "early"),
        ({"early": Learnt(1.0, gone), "late": Learnt(2.0)}, "late"),
        ({"early": Learnt(1.0, gone), "late": Learnt(2.0, gone)}, None),
    ):
        table = learning_table(results, 0.8)  # type: ignore[arg-type]
        marked = [cell for cell in table.columns[0].cells if "first" in str(cell)]
        assert marked == ([] if first is None else [f"{first} \N{LEFTWARDS ARROW} first"])
        assert list(table.columns[5].cells) == ["1 s", "2 s"]


def test_when_training_diverged() -> None:
    raw = {"workers": [{"begin": [0.0, 2.0]}], "virtual_seconds": 5.0, "diverged": (0, 2, "inf")}
    found = divergence_of(raw)
    assert found is not None
    assert str(found) == "diverged after step 1 at 2 s"
    cut_off = divergence_of(raw | {"diverged": (0, 3, "inf")})
    assert cut_off is not None
    assert cut_off.seconds == 5.0
    assert divergence_of({"workers": []}) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("10:30/task.py", ("10:30/task.py", "training")),
        ("10:30/task.py:other", ("10:30/task.py", "other")),
        ("task.py", ("task.py", "training")),
        ("package.module:other", ("package.module", "other")),
    ],
)
def test_a_task_is_a_file_or_module_and_a_function(text: str, parts: tuple[str, str]) -> None:
    assert task.split(text) == parts
