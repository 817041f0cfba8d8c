"""``gearshift simulate`` from the command line to its files."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import gearshift as gs
from gearshift.cli import main
from gearshift.sim.messages import Request
from gearshift.sim.processes import Pool
from gearshift.sim.recommend import Accuracy

pytestmark = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without SimGrid"
)

CLUSTER = """
[[hosts]]
name = "n"
count = 4
bandwidth = "100 Mbit/s"

[variability]
kind = "normal"
spread = 0.05
"""
WORKLOAD = """
batch_size = 8
forward = "1 ms"
backward = "2 ms"
parameters = [{ name = "a", shape = [64, 64] }, { name = "b", shape = [256] }]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with c.toml and w.toml."""
    (tmp_path / "c.toml").write_text(CLUSTER, encoding="utf-8")
    (tmp_path / "w.toml").write_text(WORKLOAD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def simulate(*arguments: str) -> int:
    """The exit code of the command for c.toml and w.toml."""
    with pytest.raises(SystemExit) as caught:
        main(["simulate", "-c", "c.toml", "-w", "w.toml", *arguments])
    return int(caught.value.code or 0)


def test_strategies_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("-s", "all_reduce", "-s", "ps:asp(shards=1)", "--timeline", "traces/t.json")
    assert simulate(*options, "--steps", "8") == 0
    shown = capsys.readouterr().out
    assert "w on c: 4 workers, 8 steps, seed 1" in shown
    assert "all_reduce ← best" in shown
    assert "ps:asp(shards=1) *" in shown
    assert "asynchronous strategies (*)" in shown
    assert "- ps:asp(shards=1): only 8 steps: workers who don't wait" in shown
    assert "- all_reduce: only" not in shown
    summary = json.loads((folder / "runs/simulate/summary.json").read_text(encoding="utf-8"))
    assert summary["best"] == "all_reduce"
    assert [result["strategy"] for result in summary["results"]] == [
        "all_reduce",
        "ps:asp(shards=1)",
    ]
    assert {path.name for path in (folder / "traces").iterdir()} == {
        "t.all_reduce.json",
        "t.ps-asp-shards-1.json",
    }


def test_too_few_steps_are_told_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--steps", "3", "-s", "all_reduce", "-s", "ps:asp", "-s", "ps:ssp(3)") == 0
    (hint,) = (line for line in capsys.readouterr().out.splitlines() if "only 3 steps" in line)
    assert hint.startswith("- ps:asp and ps:ssp(3): only 3 steps: workers who don't wait")


def test_json_is_all_that_goes_to_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--json", "--out", "elsewhere") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder / "elsewhere/summary.json").read_text(encoding="utf-8"))
    assert printed["results"][0]["step_seconds"]["p95"] > 0


def test_a_strategy_that_does_not_work_spares_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate("-s", "all_reduce", "-s", "ps(shards=9)") == 1
    assert "ps:bsp(shards=9): shards must be" in capsys.readouterr().out


def test_a_sweep_writes_its_table_map_and_crossovers(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(Accuracy, "load", lambda: Accuracy(0.015, 0.06, 24))
    axes = ("workers=2,4,8", "bandwidth=1M,1G", "strategy=all_reduce:ring,all_reduce:tree,ps:bsp")
    assert simulate("--steps", "6", "--sweep", *axes) == 0
    shown = capsys.readouterr().out
    assert " 1 Gbit/s " in shown
    assert "no more apart than the margin of error, 1.5 %" in shown
    out = folder / "runs/simulate"
    with (out / "sweep.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 3
    # Two workers have nothing to choose between; tree is ahead of ring with 8, by 0.8 %.
    assert shown.count("no difference  ") == 2
    assert [row["level"] for row in rows] == 6 * ["True"] + 12 * ["False"]
    crossed = json.loads((out / "crossovers.json").read_text(encoding="utf-8"))
    assert [(c["axis"], c["at"]) for c in crossed] == [
        ("bandwidth", {"workers": 4}),
        ("bandwidth", {"workers": 8}),
    ]
    assert {row["workers_total"] for row in rows} == {"2", "4", "8"}
    winners = [row for row in rows if row["winner"] == "True"]
    assert len(winners) == 3 * 2
    assert (out / "heatmap.png").stat().st_size > 0
    for crossover in crossed:
        assert crossover["low"] <= crossover["value"] <= crossover["high"]
        assert crossover["below"] != crossover["above"]
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(out / "sweep.parquet")
    assert list(frame["bandwidth"].unique()) == [125e3, 125e6]
    assert frame["throughput"].min() > 0


def test_a_point_that_cannot_be_has_its_error_in_the_table(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    assert simulate("--steps", "4", "--sweep", "stragglers=0,9") == 0
    shown = capsys.readouterr().out
    assert "failed: stragglers=9: only 4 hosts have workers" in shown
    assert simulate("--sweep", "stragglers=9") == 2
    assert "nothing could be simulated" in capsys.readouterr().err


def test_names_are_shown_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = 'name = "lab [/old] :ring:"\n'
    (folder / "c.toml").write_text(named + CLUSTER, encoding="utf-8")
    (folder / "w.toml").write_text('name = "[bold]"\n' + WORKLOAD, encoding="utf-8")
    candidates = ("-s", "all_reduce:ring", "-s", "ps:bsp", "--steps", "5")
    assert simulate(*candidates) == 0
    shown = capsys.readouterr().out
    assert "[bold] on lab [/old] :ring:: 4 workers" in shown
    assert "all_reduce:ring" in shown
    assert simulate(*candidates, "--recommend") == 0
    assert "all_reduce:ring" in capsys.readouterr().out.splitlines()[0]
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    assert simulate(*candidates, "--sweep", "bandwidth=1M,1G") == 0
    assert "all_reduce:ring" in capsys.readouterr().out


def test_names_in_pictures_are_no_formulas(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    named = "name = '$\\frac$'\n"
    result = gs.simulate(named + CLUSTER, named + WORKLOAD, "all_reduce", steps=4)
    assert result.plot(folder / "steps.png").read_bytes().startswith(b"\x89PNG")
    from gearshift.sim.curves_plot import draw_curves

    path = draw_curves({"all_reduce": result}, folder / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    pytest.importorskip("pyarrow")
    zones = CLUSTER + "".join(f"[[zones]]\nname = '$\\{z}$'\n" for z in ("sub", "frac"))
    (folder / "c.toml").write_text(zones, encoding="utf-8")
    axes = ("workers=2,4", r"hosts.zone=$\sub$,$\frac$")
    assert simulate("--steps", "4", "--sweep", *axes) == 0


@pytest.mark.parametrize("axis", ["batch_size=4,8", "workers=2,4"])
def test_a_sweep_of_a_wrong_workload_names_file_and_key(
    axis: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    text = WORKLOAD.replace("batch_size = 8", "batch_size = 0")
    (folder / "w.toml").write_text(text, encoding="utf-8")
    assert simulate("--sweep", axis) == 2
    assert "gearshift simulate: w.toml:2: batch_size: " in capsys.readouterr().err


def test_the_columns_of_a_sweep_have_their_types(folder: Path) -> None:
    """Whatever is in them, so that the tables of several sweeps fit together."""
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("matplotlib")
    schemas = []
    for number, strategies in enumerate(("all_reduce,ps(shards=9)", "ps:asp")):
        out = f"out{number}"
        options = ("--steps", "4", "--out", out)
        assert simulate(*options, "--sweep", "workers=2,4", f"strategy={strategies}") == 0
        schemas.append(parquet.read_schema(folder / out / "sweep.parquet"))
    assert schemas[0].equals(schemas[1])
    types = dict(zip(schemas[0].names, map(str, schemas[0].types), strict=True))
    assert types["workers"] == "int64"
    assert (types["mean_staleness"], types["error"]) == ("double", "string")


def test_a_sweep_without_a_map_leaves_none_of_another(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    assert simulate("--steps", "4", "--sweep", "workers=2,4") == 0
    assert (folder / "runs/simulate/heatmap.png").exists()
    assert simulate("--steps", "4", "--sweep", "strategy=all_reduce,ps:bsp") == 0
    assert not (folder / "runs/simulate/heatmap.png").exists()


@pytest.mark.parametrize("out", ["run:1", "caf\udce9"])
def test_a_sweep_goes_into_a_folder_of_any_name(folder: Path, out: str) -> None:
    """Also one that begins as an address does, or whose bytes are no UTF-8."""
    (folder / out).mkdir()
    (folder / out / "c.toml").write_text(CLUSTER, encoding="utf-8")
    options = ("-c", f"{out}/c.toml", "--out", out, "--steps", "4")
    assert simulate(*options, "--sweep", "workers=1,2") == 0
    assert {path.name for path in (folder / out).iterdir()} >= {"sweep.parquet", "sweep.csv"}


@pytest.mark.parametrize("more", [(), ("--sweep", "workers=2,4"), ("--recommend",)])
def test_a_full_disk_costs_the_files_only(
    more: tuple[str, ...],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert simulate("-s", "all_reduce", "-s", "all_reduce:tree", "--steps", "4", *more) == 1
    told = capsys.readouterr()
    assert "could not be written: No space left on device" in told.err
    assert "samples" in told.out
    assert not list((folder / "runs/simulate").glob("*.tmp"))


@pytest.mark.parametrize("more", [(), ("--sweep", "workers=4")])
def test_what_is_done_before_an_interrupt_is_kept(
    more: tuple[str, ...],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    run_all = Pool.run_all

    def interrupted(
        pool: Pool, requests: Sequence[Request], on_done: Any, on_steps: Any = None
    ) -> None:
        run_all(pool, requests[:1], on_done, on_steps)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pool, "run_all", interrupted)
    assert simulate("-s", "all_reduce", "-s", "ps:bsp", "--steps", "4", *more) == 130
    told = capsys.readouterr()
    assert "interrupted; this is what was done before" in told.err
    assert "all_reduce" in told.out
    assert "interrupted before it was done" in told.out
    assert (folder / "runs/simulate/summary.json").exists()
    assert simulate("-s", "all_reduce", "--steps", "4", "--recommend") == 130
    assert capsys.readouterr().out == ""


def test_a_timeline_that_is_a_folder_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate("--timeline", ".") == 2
    assert "--timeline .: is a folder; name a file" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_terminal_without_all_characters(more: tuple[str, ...], folder: Path) -> None:
    """Of the arrow there, results are shown all the same; JSON has its escapes."""
    text = 'name = "größe"\n' + WORKLOAD
    (folder / "w.toml").write_text(text, encoding="utf-8")
    strategies = ("-s", "all_reduce", "-s", "all_reduce:tree", "--steps", "4")
    done = subprocess.run(
        [sys.executable, "-m", "gearshift.cli", "simulate", "-c", "c.toml", "-w", "w.toml",
         *strategies, *more],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode("ascii")
    if more:
        assert json.loads(shown)["workload"]["name"] == "größe"
    else:
        assert "gr??e on c" in shown
        assert "? best" in shown


@pytest.mark.parametrize("more", [(), ("--sweep", "workers=2,4"), ("--recommend",)])
def test_errors_in_json_name_no_line_of_another_text(
    more: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    names = [{"name": "a", "shape": [2]}, {"name": "a", "shape": [3]}]
    document = {"forward": 1, "backward": 1, "parameters": names}
    (folder / "w.json").write_text(json.dumps(document), encoding="utf-8")
    assert simulate("-w", "w.json", *more) == 2
    assert 'simulate: w.json: parameters[1].name: "a" is the name' in capsys.readouterr().err


def test_errors_of_changed_clusters_name_no_line_of_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    assert simulate("--steps", "4", "--sweep", "hosts.speed=0,1") == 0
    told = capsys.readouterr().out
    assert "failed: c.toml with hosts.speed=0: hosts[0].speed: a speed must be positive" in told


def test_a_json_workload_with_a_hole_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "w.json").write_text('{"forward": null}', encoding="utf-8")
    assert simulate("-w", "w.json") == 2
    assert "w.json: forward: None cannot stand" in capsys.readouterr().err


def test_a_switch_that_never_comes_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate("-s", "switch", "-s", "switch(at=3)", "--steps", "5") == 0
    shown = capsys.readouterr().out
    assert "- switch: never switched: it waits for the loss" in shown
    assert "- switch(at=3): never" not in shown


def test_help_says_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "The cluster file gets what they say." in shown


def test_a_recommendation_is_one_paragraph(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = ("-s", "all_reduce", "-s", "all_reduce:tree", "-s", "ps:asp")
    assert simulate("--recommend", "--steps", "5", *candidates) == 0
    paragraph = capsys.readouterr().out.splitlines()[0]
    assert paragraph.startswith("Use ")
    assert "3 seeds differ by" in paragraph
    assert "--steps 1000 tells." in paragraph
    assert "answer" in paragraph
    path = folder / "runs/simulate/recommendation.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["best"] in paragraph
    assert set(found["changes"]) == {
        "twice the bandwidth",
        "half the bandwidth",
        "8 workers",
        "2 workers",
        "a straggler (half as fast)",
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-s", "soon"], "strategy 'soon' is none of"),
        (["--steps", "2"], "there must be steps after warm-up"),
        (["--sweep", "colour=red"], 'there is no axis "colour"; there are strategy, workers'),
        (["--sweep", "workers=2", "--recommend"], "choose one"),
        (["--sweep", "strategy=ps", "-s", "ps"], "choose one"),
        (["--timeline", "t.json", "--recommend"], "--timeline goes with neither"),
        (["workers=2"], "'workers=2' goes with --sweep only"),
        (["-c", "nowhere.toml"], "nowhere.toml: No such file"),
        (["--optimizer", "magic"], "no native rule 'magic'"),
        (["--out", "c.toml/x"], "c.toml/x: Not a directory"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(*arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--sweep", "workers=2,4"), ("--recommend",)])
def test_a_wrong_file_is_named_with_line_and_key(
    more: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c.toml").write_text(CLUSTER.replace("100 Mbit/s", "-1 Mbit/s"), encoding="utf-8")
    assert simulate(*more) == 2
    assert "c.toml:5: hosts[0].bandwidth: a rate must be positive" in capsys.readouterr().err
    (folder / "c.toml").write_text(CLUSTER, encoding="utf-8")
    (folder / "w.toml").write_text(WORKLOAD.replace("1 ms", "1 mile"), encoding="utf-8")
    assert simulate(*more) == 2
    assert "w.toml:3: forward: " in capsys.readouterr().err


@pytest.mark.parametrize("text", [5000 * "1", 9000 * "[" + 9000 * "]"])
def test_a_file_that_pythons_parser_gives_up_on_is_named(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c.toml").write_text(f"a = {text}\n", encoding="utf-8")
    assert simulate() == 2
    assert "gearshift simulate: c.toml:1:" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--timeline"])
def test_what_cannot_be_written_is_told_before_anything_is_simulated(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pool, "run_all", lambda *_: pytest.fail("was simulated"))
    place = "/proc" if option == "--out" else "/proc/t.json"  # where even root writes no file
    assert simulate(option, place) == 2
    assert capsys.readouterr().err.startswith("gearshift simulate: /proc/")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_full_disk_behind_stdout_is_told(folder: Path, arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "gearshift.cli", "simulate", "-c", "c.toml", "-w", "w.toml"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, *arguments, "--out", "out"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"gearshift simulate: stdout: {os.strerror(errno.ENOSPC)}\n"
    assert json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))["results"]
