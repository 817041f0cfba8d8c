"""Running a study: outcomes are those of the simulator, and what is done is not done again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gearshift_testing.made_study import outcome
from gearshift_testing.processes import await_end
from typer.testing import CliRunner

import gearshift as gs
from gearshift.cli import app, main
from gearshift.errors import InvalidArgument
from gearshift.launch import LaunchError
from gearshift.report.files import claimed
from gearshift.sim.task import source
from gearshift.study import measured, runner
from gearshift.study.rates import scaled, task_file
from gearshift.study.recipe import recipe
from gearshift.study.store import Store
from gearshift.study.study_file import read_study

pytestmark = pytest.mark.usefixtures("forked_cells")
HERE = Path(__file__).parent
STUDY = """
strategies = ["ps:bsp", "ps:asp"]
seeds = 1
[[use_cases]]
task = "study_task.py"
evaluations = 5
[[clusters]]
file = "two.toml"
"""
CLUSTER = """
[defaults]
bandwidth = "10 Mbit/s"
latency = "1 ms"
[[hosts]]
name = "node"
count = 2
[[stragglers]]
host = "node-1"
kind = "fixed"
factor = 2.0
"""


@pytest.fixture
def study_path(tmp_path):
    shutil.copy(HERE / "study_task.py", tmp_path)
    (tmp_path / "two.toml").write_text(CLUSTER)
    (tmp_path / "lines.toml").write_text(STUDY)
    return tmp_path / "lines.toml"


def run(path: Path, *options: str, code: int = 0) -> str:
    outcome = CliRunner().invoke(
        app, ["study", str(path), "--out", str(path.parent / "o"), *options]
    )
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def test_a_cell_is_what_the_simulator_says(study_path):
    said = run(study_path)
    assert "2 cells run" in said
    assert "Of 1 combination of use case and cluster" in said  # the report's answer
    store = Store(study_path.parent / "o")
    study = read_study(study_path)
    for cell in study.cells():
        found = store.load(cell).outcome
        own = gs.simulate(
            study_path.parent / "two.toml",
            study.use_cases[0].workload,
            cell.strategy,
            steps=40,
            seed=1,
            every_step=True,
            train=f"{study_path.parent}/study_task.py",
            evaluate_every=8,
        )
        assert (found.workers, found.steps, found.batch_size) == (2, 40, 4)
        assert [(p.step, p.metric, p.loss, p.seconds) for p in found.curve] == [
            (p.step, p.metric, p.loss, p.seconds) for p in own.curve
        ]
        assert found.step_mean == own.step_seconds.mean
        assert found.samples_per_second == own.throughput
        # Counted by hand: all gradients that were there at the end of worker 0's step.
        times = [time for worker in own.raw["workers"] for time in worker["computed"]]
        assert [p.samples for p in found.curve] == [
            4 * sum(time <= p.seconds for time in times) for p in found.curve
        ]
    bsp, asp = (store.load(cell).outcome for cell in study.cells())
    assert bsp.mean_staleness == 0
    assert bsp.curve[-1].samples == 320
    assert asp.curve[-1].samples < 320  # worker 0 does not wait for the slow one
    facts = store.facts()
    assert facts["use_cases"][0]["parameters"] == 3
    text = (study_path.parent / "o" / "report.md").read_text()
    assert ", 3 parameters. All workers together learn from 320 samples" in text
    assert facts["versions"]["torch"] == torch.__version__
    assert (study_path.parent / "o" / "report.html").stat().st_size > 0


def test_what_is_done_is_kept_until_it_would_be_different(study_path):
    assert "1 cell run" in run(study_path, "--strategy", "ps:bsp")
    whole = f"gearshift study {study_path} --out {study_path.parent / 'o'}"
    assert Store(study_path.parent / "o").facts()["command"] == whole  # makes all of the report
    file = next((study_path.parent / "o" / "cells").iterdir())
    before = file.stat().st_mtime_ns
    said = run(study_path)
    assert "1 cell run, 1 kept from before" in said
    assert file.stat().st_mtime_ns == before
    study_path.write_text(STUDY.replace("evaluations = 5", "evaluations = 5\ntarget = -0.01"))
    assert "0 cells run, 2 kept" in run(study_path)  # asked of what was found
    assert file.stat().st_mtime_ns == before
    study_path.write_text(STUDY.replace("evaluations = 5", "evaluations = 4"))
    assert "1 cell run" in run(study_path, "--strategy", "ps:bsp")
    assert file.stat().st_mtime_ns > before


def test_cells_of_another_commit_are_kept_and_told(study_path, monkeypatch):
    folder = study_path.parent / "o"
    monkeypatch.setattr(runner, "_commit", lambda: "aaa")
    assert "another commit" not in run(study_path, "--strategy", "ps:bsp")
    monkeypatch.setattr(runner, "_commit", lambda: "bbb")
    said = run(study_path)
    assert "1 cell run, 1 kept from before (1 of another commit of gearshift: --again" in said
    assert "Cells were run by several commits: `aaa`, `bbb`" in (folder / "report.md").read_text()
    assert "2 cells run" in run(study_path, "--again")
    assert "several commits" not in (folder / "report.md").read_text()
    for path in (folder / "cells").glob("*.json"):  # as they were before commits were noted
        document = json.loads(path.read_text())
        del document["commit"]
        path.write_text(json.dumps(document))
    assert "2 kept from before\n" in run(study_path)


def test_a_damaged_cell_is_run_again(study_path):
    run(study_path)
    files = sorted((study_path.parent / "o" / "cells").iterdir())
    files[0].write_bytes(b"")
    said = run(study_path)
    assert "no JSON" in said
    assert str(files[0]) in said
    assert "1 cell run, 1 kept from before" in said
    assert json.loads(files[0].read_text())["error"] is None


def test_learning_rates_that_hardly_differ_have_results_of_their_own(study_path):
    rates = [1, 1.0000001, 1.0000002, 0.5, 2.0**-10]
    study_path.write_text(STUDY.replace("evaluations = 5", f"learning_rates = {rates}"))
    cells = [cell for cell in read_study(study_path).cells() if cell.strategy == "ps:bsp"]
    assert len({cell.slug for cell in cells}) == len({cell.label for cell in cells}) == 5
    names = [task_file(study_path.parent / "t", "m:f", cell.rate, "line") for cell in cells]
    assert len(set(names)) == 5
    half = cells[3]
    assert half.label == "study_task on two, ps:bsp at 0.5 of the rate, seed 1, simulated"
    assert "-0.5-1-" in half.slug


def test_a_recipe_has_all_that_determines_an_outcome(study_path, monkeypatch):
    study = read_study(study_path)
    first, second = study.cells()
    digests = {recipe(study, first), recipe(study, second)}
    for old, new in (
        ("seeds = 1", "seeds = [2]"),
        ("evaluations = 5", "evaluations = 4"),
        ("evaluations = 5", "evaluations = 5\nsamples = 8"),
        ("evaluations = 5", "evaluations = 5\nlearning_rates = [2]"),
        ("evaluations = 5", 'evaluations = 5\nforward = "4 ms"'),
        ('"two.toml"', '"two.toml"\nset = { latency = "2 ms" }'),
    ):
        study_path.write_text(STUDY.replace(old, new))
        changed = read_study(study_path)
        digests.add(recipe(changed, changed.cells()[0]))
    assert len(digests) == 8
    study_path.write_text(STUDY.replace("evaluations = 5", "evaluations = 5\ntarget = 0"))
    unchanged = read_study(study_path)
    assert recipe(unchanged, unchanged.cells()[0]) in digests
    monkeypatch.setenv("GEARSHIFT_BIBLE", "another.txt")
    assert recipe(unchanged, unchanged.cells()[0]) not in digests


def test_the_text_of_a_task_that_is_a_module_is_found_for_its_recipe(study_path, monkeypatch):
    monkeypatch.chdir(study_path.parent)
    study_path.write_text(STUDY.replace('"study_task.py"', '"study_task:training"'))
    study = read_study(study_path)
    assert source(study.use_cases[0].task) == (study_path.parent / "study_task.py").read_text()


def test_a_cell_that_fails_is_told_and_the_others_are_kept(study_path):
    study_path.write_text(
        STUDY.replace(
            "[[clusters]]",
            '[[use_cases]]\nname = "broken"\ntask = "study_task.py:breaking"\n[[clusters]]',
        )
    )
    said = run(study_path, "--strategy", "ps:bsp", code=1)
    assert "1 cell run, 1 failed" in said
    assert "broken on two, ps:bsp, seed 1, simulated" in said
    assert "ValueError: the data are gone" in said
    cells = (study_path.parent / "o" / "cells").glob("*.json")
    errors = {json.loads(path.read_text())["error"] is None for path in cells}
    assert errors == {True, False}
    assert "0 cells run, 1 kept from before, 1 failed" in run(
        study_path, "--strategy", "ps:bsp", code=1
    )


@pytest.mark.parametrize("full", ["cells/", "report.html"])
def test_a_full_disk_is_told_in_a_line_and_keeps_what_is_done(study_path, monkeypatch, full):
    write_text = Path.write_text

    def write(path, *arguments, **options):
        if full in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write)
    shown = run(study_path, "--strategy", "ps:bsp", code=1).splitlines()
    folder = study_path.parent / "o"
    assert "No space left on device" in shown[-1]
    assert shown[-1].startswith("gearshift study: ")
    assert str(folder) in shown[-1]
    assert not [*folder.rglob("*.tmp")]
    assert len([*folder.glob("cells/*.json")]) == (full == "report.html")


def test_a_study_that_is_asked_to_end_ends_as_by_ctrl_c(study_path):
    """So that all that it has begun is taken down."""
    script = f"""
import os, signal
from gearshift.cli import main
from gearshift.sim.processes import Pool
Pool.run_all = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
main(["study", {str(study_path)!r}, "--out", {str(study_path.parent / "o")!r}])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "the same command goes on from here" in done.stderr


def test_processes_of_a_study_that_is_killed_end_with_it(tmp_path):
    script = """
import sys
from pathlib import Path
from gearshift.sim.validation.jobs import Start, run_commands
folder = Path(sys.argv[1])
command = 'echo $$ > "$0/pid"; kill -KILL $PPID; exec sleep 60'
run_commands([Start(["sh", "-c", command, str(folder)], {})], folder, 60.0)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    await_end(int((tmp_path / "pid").read_text()))


def test_options_choose_cells(study_path):
    said = CliRunner().invoke(app, ["study", str(study_path), "--dry-run", "-s", "PS:ASP"]).output
    assert said.splitlines() == ["study_task on two, ps:asp, seed 1, simulated", "1 cell"]
    for options, told in (
        (("--cluster", "three"), '--cluster: there is no "three"; there are two'),
        (("--strategy", "all_reduce"), "there are ps:bsp, ps:asp"),
        (("--strategy", "sp"), "--strategy: "),
        (("--clock", "measured"), "no cell of the study is left"),
    ):
        outcome = CliRunner().invoke(app, ["study", str(study_path), *options])
        assert told in str(outcome.exception)


def test_learning_rates_are_scaled_in_all_steps(tmp_path):
    task = tmp_path / "task.py"
    shutil.copy(HERE / "study_task.py", task)
    schedules = {
        "torch.optim.lr_scheduler.StepLR(made.optimizer, 2)": True,
        "torch.optim.lr_scheduler.LambdaLR(made.optimizer, lambda step: 1 / (1 + step))": True,
        "torch.optim.lr_scheduler.CosineAnnealingLR(made.optimizer, 9, eta_min=0.02)": True,
        "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(made.optimizer, 4, 1, 0.02)": True,
        "torch.optim.swa_utils.SWALR(made.optimizer, 0.1)": False,
        "torch.optim.lr_scheduler.OneCycleLR(made.optimizer, 0.1, 9)": False,
        "torch.optim.lr_scheduler.CyclicLR(made.optimizer, 0.01, 0.1)": False,
    }
    for number, (schedule, scales) in enumerate(schedules.items()):
        task.write_text(
            (HERE / "study_task.py").read_text()
            + f"\ndef scheduled{number}():\n    made = training()\n"
            + f"    made.scheduler = {schedule}\n    return made\n"
        )
        name = task_file(tmp_path, f"{task}:scheduled{number}", 0.25, f"line{number}")
        path, _, function = name.rpartition(":")
        text = Path(path).read_text()
        assert function == "training"
        assert f"scheduled{number}', 0.25" in text
        whole = f"{task}:scheduled{number}"
        if not scales:
            with pytest.raises(InvalidArgument, match="rates of its own"):
                scaled(whole, 0.25)
            continue
        assert rates(scaled(whole, 0.25)) == pytest.approx(
            [0.25 * r for r in rates(scaled(whole, 1))]
        )


def rates(training) -> list[float]:
    found = []
    for _ in range(6):
        found.append(training.optimizer.param_groups[0]["lr"])
        training.optimizer.step()
        training.scheduler.step()
    return found


def test_the_rate_of_a_task_that_is_unscaled_is_its_own(tmp_path):
    assert task_file(tmp_path, "module:function", 1.0, "name") == "module:function"
    assert not any(tmp_path.iterdir())


def test_what_was_measured_is_reported_where_it_cannot_be_measured_again(study_path, monkeypatch):
    study_path.write_text(
        STUDY.replace('"two.toml"', '"two.toml"\nclocks = ["measured"]').replace(
            "seeds = 1", "seeds = 2"
        )
    )
    monkeypatch.setattr(measured, "why_not", lambda cluster: None)
    monkeypatch.setattr(measured, "measure", lambda *_: outcome(0.01, 40, target=-0.05))
    assert "2 cells run" in run(study_path, "--strategy", "ps:bsp")
    monkeypatch.setattr(measured, "why_not", lambda cluster: "it takes root")
    folder = study_path.parent / "o"
    for options, told in ((("--strategy", "ps:bsp"), False), ((), True), (("--again",), True)):
        said = run(study_path, *options)
        assert ("two is not measured: it takes root" in said) == told
        assert ("it takes root" in (folder / "report.md").read_text()) == told
        assert ("2 kept" in said) == ("--again" not in options)
        assert ("Cells: 2 of 2 run" if told else "Cells: 2 of 4 run") in run_report(folder)


def test_a_run_that_only_simulates_forgets_no_cluster_that_cannot_be_measured(
    study_path, monkeypatch
):
    study_path.write_text(
        STUDY.replace('"two.toml"', '"two.toml"\nclocks = ["simulated", "measured"]')
    )
    monkeypatch.setattr(measured, "why_not", lambda cluster: "it takes root")
    assert "two is not measured: it takes root" in run(study_path)
    folder = study_path.parent / "o"
    for options in (("--clock", "simulated"), ("--strategy", "ps:bsp", "--clock", "measured")):
        run(study_path, *options)
        assert Store(folder).facts()["skipped"] == {"two": "it takes root"}
        assert "Cells: 2 of 2 run" in run_report(folder)
    monkeypatch.setattr(measured, "why_not", lambda cluster: None)
    monkeypatch.setattr(measured, "measure", lambda *_: outcome(0.01, 40, target=-0.05))
    run(study_path, "--clock", "simulated")  # does not look at what can be measured
    assert Store(folder).facts()["skipped"] == {"two": "it takes root"}
    run(study_path, "--strategy", "ps:bsp")
    assert Store(folder).facts()["skipped"] == {}
    assert "Cells: 3 of 4 run" in run_report(folder)


def test_what_the_user_wrote_is_not_overwritten(study_path):
    """`--out .` with the cluster's file where its changed copy would stand, or beside a study."""
    folder = study_path.parent
    (folder / "clusters").mkdir()
    cluster = folder / "clusters" / "two.toml"
    cluster.write_text(CLUSTER)
    text = STUDY.replace('"two.toml"', '"clusters/two.toml"')
    study_path.write_text(text.replace("[[clusters]]", "[[clusters]]\nset = { workers = 4 }"))
    with pytest.raises(LaunchError, match=f"{cluster} would be overwritten"):
        run_in(folder, study_path)
    assert cluster.read_text() == CLUSTER
    assert not (folder / "study.toml").exists()
    study_path.write_text(text)  # nothing is changed, so the copy is the file
    of_windows = CLUSTER.replace("\n", "\r\n").encode()
    cluster.write_bytes(of_windows)
    run(study_path, "--out", str(folder), "--strategy", "ps:bsp")
    assert cluster.read_bytes() == of_windows
    study_path.write_text(f"title = 'again'\n{text}")  # of a result's folder, the study may change
    run(study_path, "--out", str(folder), "--strategy", "ps:bsp")
    (folder / "study.json").unlink()
    (folder / "study.toml").write_text("# another one, of the user\n")
    with pytest.raises(LaunchError, match=r"study\.toml would be overwritten"):
        run_in(folder, study_path)


def test_a_study_runs_in_a_folder_of_any_name(study_path, capsys):
    """Bytes that are no UTF-8 are lone surrogates in Python."""
    folder = study_path.parent / "caf\udce9"
    folder.mkdir()
    for name in ("study_task.py", "two.toml"):
        shutil.copy(study_path.parent / name, folder)
    path = folder / "caf\udce9.toml"
    path.write_text(STUDY.replace("evaluations", "learning_rates = [1, 2]\nevaluations"))
    with pytest.raises(SystemExit) as ended:
        main(["study", str(path), "--out", str(folder / "out"), "--strategy", "ps:bsp"])
    assert ended.value.code == 0, capsys.readouterr()
    assert "2 cells run" in capsys.readouterr().out
    assert (folder / "out" / "report.html").exists()
    assert "caf?" in (folder / "out" / "report.md").read_text(encoding="utf-8")


def run_in(folder: Path, study: Path) -> None:
    arguments = ["study", str(study), "--out", str(folder), "--strategy", "ps:bsp"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)


def run_report(folder: Path) -> str:
    made = CliRunner().invoke(app, ["report", str(folder)])
    assert made.exit_code == 0, made.output
    return (folder / "report.md").read_text()


def test_a_report_of_a_study_that_runs_has_to_wait(tmp_path):
    (tmp_path / "study.json").write_text("{}")
    with claimed(tmp_path):
        made = CliRunner().invoke(app, ["report", str(tmp_path)])
    said = f"{tmp_path}: another run is writing its results there; wait for its end"
    assert str(made.exception) == said


def test_the_report_is_written_though_nobody_reads(study_path, tmp_path):
    """As with `gearshift study FILE | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "gearshift", "study", str(study_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "runs" / "lines" / "report.html").exists()
