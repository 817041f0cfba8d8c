"""What README.md, docs/python.md and examples/ show runs as they say, alone and on two workers."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gearshift_testing.jobs import Job
from gearshift_testing.template import run_python

import gearshift.launch

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "python" / "mnist_mlp.py"

BEFORE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
Net = lambda: nn.Linear(3, 1)
loss_fn = nn.functional.mse_loss
x = torch.randn(3000, 3)
dataset = TensorDataset(x, x @ torch.tensor([[1.0], [2.0], [3.0]]))
"""
AFTER = """
assert loss.item() < 1e-3, loss
print("learned")
"""


def diff_of_the_readme() -> list[str]:
    found = re.search(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, "README.md shows no diff"
    return found[1].splitlines()


def script(keep: str) -> str:
    """The script of the diff: with the lines that begin with one of two marks."""
    lines = [line[1:] for line in diff_of_the_readme() if line[:1] in keep]
    return BEFORE + "\n".join(lines) + AFTER


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")}
    package = str(Path(gearshift.launch.__file__).parents[2])
    return {**kept, "PYTHONPATH": package, "NO_COLOR": "1"}


def launched(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`gearshift run`."""
    ended = subprocess.run(
        [sys.executable, "-m", "gearshift.cli", "run", *arguments],
        cwd=cwd,
        env={**environment(), "GEARSHIFT_LOG": "info"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended


def run_forks(folder: Path, text: str, workers: int) -> list[str]:
    """As the processes of a launcher, or with 0 workers as a process of none."""
    (folder / "train.py").write_text(text)
    with contextlib.chdir(folder):
        if workers == 0:
            done = run_python(["train.py"], cwd=folder, env=environment(), timeout=200)
            assert done.returncode == 0, done.stderr
            return [done.stdout]
        with Job(["train.py"], workers, forked=True) as job:
            finished = job.wait(200)
    assert all(ended.returncode == 0 for ended in finished), finished
    return [ended.stdout for ended in finished]


def test_the_diff_changes_five_lines() -> None:
    marks = [line[:1] for line in diff_of_the_readme()]
    assert marks.count("+") == 5
    assert marks.count("-") <= 5


@pytest.mark.parametrize("keep", [" -", " +"], ids=["before", "after"])
def test_the_diff_alone(tmp_path: Path, keep: str) -> None:
    assert "learned" in run_forks(tmp_path, script(keep), 0)[0]


def test_the_diff_on_two_workers(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script(" +"))
    assert launched("-n", "2", "train.py", cwd=tmp_path).stdout.count("learned") == 2


def test_the_job_that_resumes_within_an_epoch(tmp_path: Path) -> None:
    """The second time from the checkpoint after step 150 of 157, on as many workers or on one."""
    text = re.search(r"```python\n(import os\n.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
    assert text, "docs/python.md shows no such job"
    counted = text[1] + "print(f\"rank {gs.rank()}: {gst.stats(model)['step']} steps\")\n"
    left = 10_000 - 150 * 2 * 32
    for workers, steps in ((2, 3 * 157), (2, 7), (0, -(-left // 32))):
        checkpoint = tmp_path / "checkpoint.pt"
        before = checkpoint.read_bytes() if checkpoint.exists() else b""
        outputs = run_forks(tmp_path, counted, workers)
        assert all(out.count(f": {steps} steps") == 1 for out in outputs), outputs
        assert checkpoint.read_bytes() == before or not before


def test_the_loss_over_all_ranks(tmp_path: Path) -> None:
    """It learns alone, on two workers, and on three, whose batches differ."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
    (text,) = (block for block in found if "concat_all_gather(keys)" in block)
    outputs = [run_forks(tmp_path, text, workers)[0] for workers in (0, 2, 3)]
    for out in outputs:
        first, *_, last = (float(loss) for loss in re.findall(r"loss ([\d.]+)", out))
        assert last < 0.9 * first, outputs


@pytest.mark.slow
def test_the_example(tmp_path: Path) -> None:
    text = EXAMPLE.read_text().replace("type=int, default=3", "type=int, default=1")
    out = "".join(run_forks(tmp_path, text, 2))
    accuracies = re.findall(r"epoch 1: test accuracy ([\d.]+)", out)
    assert len(accuracies) == 2
    assert len(set(accuracies)) == 1
    assert float(accuracies[0]) > 0.75


@pytest.mark.slow
def test_the_job_file_of_the_example(tmp_path: Path) -> None:
    """In the folder where it is, as docs/jobs.md says, and with other numbers."""
    job = "examples/jobs/mnist_mlp.toml"
    ended = launched("--folder", str(tmp_path), job, "--lr", "0.05", cwd=ROOT)
    assert f"{job}: strategy switch(at=0.5), 2 workers\n" in ended.stderr
    assert "names its strategy itself" not in ended.stderr
    assert "switched from all_reduce to parameter_server(asp) after step 235" in ended.stderr
    accuracies = re.findall(r"epoch 1: test accuracy ([\d.]+)", ended.stdout)
    assert len(accuracies) == 2
    assert float(accuracies[0]) > 0.75
