"""`gearshift profile` on training scripts.

All but one in a process that has imported PyTorch already.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from gearshift_testing.template import run_python

import gearshift.launch
from gearshift.errors import InvalidArgument
from gearshift.sim.workload import Workload

ROOT = Path(__file__).parents[3]
SLEEP = 0.02
"""In forward, backward or the update; much more than all else that these scripts do."""

HEAD = f"""
import sys, time
import torch
from torch import nn

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        time.sleep({SLEEP})
        return gradient

class Slow(nn.Module):
    def __init__(self, forward=0, backward=0):
        super().__init__()
        self.times = forward, backward
    def forward(self, x):
        time.sleep({SLEEP} * self.times[0])
        for _ in range(self.times[1]): x = Backward.apply(x)
        return x

class SlowSGD(torch.optim.SGD):
    def step(self, closure=None):
        time.sleep({SLEEP})
        return super().step(closure)

def make():
    return nn.Sequential(nn.Linear(4, 8), Slow(2, 0), nn.Linear(8, 8), Slow(0, 3), nn.Linear(8, 2))
"""
LOOP = """
for step in range(1000):
    optimizer.zero_grad()
    loss = model(torch.randn(16, 4)).square().mean()
    loss.backward()
    optimizer.step()
print("the end")
"""
PLAIN = HEAD + "model = make()\noptimizer = SlowSGD(model.parameters(), lr=0.01)\n" + LOOP
DISTRIBUTED = (
    HEAD
    + """
import gearshift as gs, gearshift.torch as gst
gs.init()
model = make()
optimizer = SlowSGD(model.parameters(), lr=0.01)
model, optimizer = gst.distribute(model, optimizer, strategy="all_reduce")
"""
    + LOOP
)


def profile(
    folder: Path,
    text: str,
    *arguments: str,
    options: tuple[str, ...] = ("--steps", "4", "--warmup", "1"),
    target: tuple[str, ...] = ("train.py",),
    started: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run the command on a script in `folder`; `started` as users do, not forked."""
    (folder / "train.py").write_text(textwrap.dedent(text))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")}
    package = str(Path(gearshift.launch.__file__).parents[2])
    command = ["-m", "gearshift.cli", "profile", "--threads", "1", *options, *target, *arguments]
    environment = {**kept, "PYTHONPATH": package, "NO_COLOR": "1"}
    if not started:
        return run_python(command, cwd=folder, env=environment, timeout=120)
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def recorded(folder: Path, text: str, **how: Any) -> Workload:
    """The workload of a script that must work."""
    done = profile(folder, text, **how)
    assert done.returncode == 0, done.stderr
    return Workload.load(folder / "workload.toml")


def test_a_script_whose_name_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.py").write_text(PLAIN)
    assert recorded(tmp_path, PLAIN, target=("caf\udce9.py",)).name == "caf?"


@pytest.mark.parametrize("text", [PLAIN, DISTRIBUTED], ids=["plain", "distributed"])
def test_times_are_where_they_were_spent(tmp_path: Path, text: str) -> None:
    """Of one step: a phase of several has their mean time in proportion to medians."""
    workload = recorded(tmp_path, text, options=("--steps", "1", "--warmup", "1"))
    assert [(p.name, p.shape) for p in workload.parameters] == [
        ("0.weight", (8, 4)),
        ("0.bias", (8,)),
        ("2.weight", (8, 8)),
        ("2.bias", (8,)),
        ("4.weight", (2, 8)),
        ("4.bias", (2,)),
    ]
    assert {p.dtype for p in workload.parameters} == {"float32"}
    assert (workload.name, workload.batch_size) == ("train", 16)
    assert workload.forward_seconds >= 2 * SLEEP
    assert workload.backward_seconds >= 3 * SLEEP
    assert workload.optimizer_seconds >= SLEEP
    # The last layer is ready before backward comes to the slow one, the others after it.
    ready = {p.name: p.ready_seconds for p in workload.parameters}
    assert ready["4.weight"] < ready["2.weight"] <= ready["0.weight"]
    assert ready["2.weight"] - ready["4.weight"] >= 3 * SLEEP
    assert max(ready.values()) == workload.backward_seconds


def test_a_workload_of_several_steps(tmp_path: Path) -> None:
    workload = recorded(tmp_path, PLAIN)
    assert workload.compute_seconds >= 5 * SLEEP
    assert workload.optimizer_seconds >= SLEEP
    ready = {p.name: p.ready_seconds for p in workload.parameters}
    assert ready["4.weight"] < ready["2.weight"] <= ready["0.weight"]
    assert workload.variability.kind == "empirical"
    assert len(workload.variability.factors) == 4
    assert sum(workload.variability.factors) == pytest.approx(4, rel=1e-3)


def test_a_parameter_server_and_samples_that_are_said(tmp_path: Path) -> None:
    text = DISTRIBUTED
    for before, after in (
        ('"all_reduce"', '"ps:asp"'),
        ("SlowSGD(model", "torch.optim.SGD(model"),
        ("    loss.backward()", "    gst.samples(100)\n    loss.backward()"),
    ):
        text = text.replace(before, after)
    done = profile(tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert "a parameter server was in force" in done.stderr
    assert Workload.load(tmp_path / "workload.toml").batch_size == 100


def test_what_is_shown(tmp_path: Path) -> None:
    done = profile(
        tmp_path,
        PLAIN,
        options=("--steps", "2", "--warmup", "1", "--name", "My net", "--out", "a/b.toml"),
    )
    assert done.returncode == 0, done.stderr
    assert "My net: 130 parameters in 6 tensors, 520 B, batch size 16" in done.stdout
    for word in ("forward", "backward", "optimizer", "spread", "a/b.toml"):
        assert word in done.stdout
    assert "step 2/2" in done.stderr
    assert "the end" not in done.stdout  # the script ended early
    assert Workload.load(tmp_path / "a" / "b.toml").name == "My net"


def test_arguments_and_cleaning_up(tmp_path: Path) -> None:
    text = f"""
    import atexit, sys
    atexit.register(print, "atexit ran")
    assert sys.argv == ["train.py", "--out", "x"] and __name__ == "__main__"
    try:
{textwrap.indent(PLAIN, " " * 8)}
    finally:
        print("finally ran")
    """
    done = profile(tmp_path, text, "--out", "x")
    assert done.returncode == 0, done.stderr
    assert "finally ran" in done.stdout
    assert "atexit ran" in done.stdout


def test_what_cannot_be_written_is_shown(tmp_path: Path) -> None:
    """As on a disk that is full by then."""
    away = "    if step == 3: __import__('shutil').rmtree('gone'); open('gone', 'w').close()\n"
    done = profile(
        tmp_path,
        PLAIN.replace("    loss.backward()\n", "    loss.backward()\n" + away),
        options=("--steps", "2", "--out", "gone/w.toml"),
    )
    assert done.returncode == 1
    assert "gearshift profile: gone" in done.stderr.replace(str(tmp_path) + "/", "")
    assert "forward + backward: spread" in done.stdout
    assert "Workload:" not in done.stdout


def test_a_file_that_is_there_is_replaced_when_asked(tmp_path: Path) -> None:
    there = tmp_path / "workload.toml"
    there.write_text("# edited by hand\n")
    done = profile(tmp_path, "print('ran')" + PLAIN)
    assert done.returncode == 2
    assert "--out workload.toml: is there already" in done.stderr
    assert "ran" not in done.stdout
    assert there.read_text() == "# edited by hand\n"
    recorded(tmp_path, PLAIN, options=("--steps", "1", "--warmup", "1", "--force"))


def test_a_batch_size_that_is_said(tmp_path: Path) -> None:
    options = ("--steps", "1", "--warmup", "1", "--batch-size", "7")
    assert profile(tmp_path, PLAIN, options=options).returncode == 0
    assert Workload.load(tmp_path / "workload.toml").batch_size == 7


def test_a_script_that_ends_early(tmp_path: Path) -> None:
    text = PLAIN.replace("range(1000)", "range(3)")
    done = profile(tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert "only 2 of 4 steps after a warm-up of 1" in done.stderr
    assert "the end" in done.stdout
    assert len(Workload.load(tmp_path / "workload.toml").variability.factors) == 2
    done = profile(tmp_path, text + "\nsys.exit(0)", options=("--warmup", "10", "--force"))
    assert done.returncode == 0
    assert "only 0 of 30 steps after a warm-up of 10: the last one" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('hello')", "neither a backward() nor a step"),
        (HEAD + "make()(torch.ones(1, 4)).sum().backward()", "no step of a torch.optim.Optimizer"),
        (PLAIN.replace("loss.backward()", ""), "an optimizer made steps, but no backward()"),
    ],
)
def test_scripts_that_train_nothing(tmp_path: Path, text: str, message: str) -> None:
    done = profile(tmp_path, text.replace("range(1000)", "range(2)"))
    assert done.returncode == 1
    assert f"gearshift profile: {message}" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "workload.toml").exists()


@pytest.mark.parametrize("text", [PLAIN, DISTRIBUTED], ids=["plain", "distributed"])
def test_a_script_that_raises(tmp_path: Path, text: str) -> None:
    raising = text.replace("    loss.backward()", "    loss.backward()\n    {}['gone']")
    done = profile(tmp_path, raising)
    assert done.returncode == 1
    assert "KeyError: 'gone'" in done.stderr
    assert "train.py" in done.stderr
    assert "profiling.py" not in done.stderr  # our own frames are no help
    assert "the script failed" in done.stderr
    assert not (tmp_path / "workload.toml").exists()


def test_a_script_that_exits_with_a_code(tmp_path: Path) -> None:
    done = profile(tmp_path, "import sys; sys.exit(3)")
    assert done.returncode == 3
    assert "the script ended with exit code 3" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "0"), "--steps must be at least 1"),
        (("--batch-size", "0"), "--batch-size must be at least 1"),
        (("--batch-size", "2147483648"), "--batch-size must be at least 1, and at most 2,147,"),
        (("--threads", "1000000"), "--threads must be at least 1, and at most "),
        (("--out", "."), "--out .: Is a directory"),
        (("--out", "train.py/x"), "--out train.py/x: "),
        (("--out", "/proc/w.toml"), "--out /proc/w.toml: "),  # where even root writes no file
    ],
)
def test_refusals(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = profile(tmp_path, "print('ran')" + PLAIN, options=options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "ran" not in done.stdout


def test_a_script_that_python_cannot_read_is_shown_with_its_line(tmp_path: Path) -> None:
    done = profile(tmp_path, "import os\ndef f(:\n    pass\n")
    assert done.returncode == 1
    assert 'File "train.py", line 2\n    def f(:\n          ^\nSyntaxError: ' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        (("nowhere.py",), 2, "nowhere.py does not exist"),
        (("-m", "nowhere.at_all"), 1, "No module named 'nowhere'"),
        (("-m", "nowhere"), 1, "gearshift profile: No module named nowhere"),
    ],
)
def test_scripts_that_do_not_exist(
    tmp_path: Path, target: tuple[str, ...], code: int, message: str
) -> None:
    done = profile(tmp_path, "", target=target)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "python" / "mnist_mlp.py").read_text()
    workload = recorded(tmp_path, text, started=True)
    assert workload.elements == 101_770
    assert workload.batch_size == 64


@pytest.mark.slow
def test_the_training_program_of_the_demo(tmp_path: Path) -> None:
    target = ("-m", "gearshift.demo.train")
    done = profile(tmp_path, "", "--limit", "2000", "--out", "run", target=target)
    assert done.returncode == 0, done.stderr
    workload = Workload.load(tmp_path / "workload.toml")
    assert (workload.elements, workload.batch_size) == (109_024, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": "3"}, "profile: steps='3': must be a whole number"),
        ({"steps": 2.5}, "profile: steps=2.5: must be a whole number"),
        ({"warmup": None}, "profile: warmup=None: must be a whole number"),
        ({"warmup": -1}, "profile: warmup=-1: must not be negative"),
        ({"batch_size": 0}, "profile: batch_size=0: must be positive"),
        ({"name": 3}, "profile: name=3: must be a text"),
    ],
)
def test_what_cannot_be_recorded_is_named(arguments: dict[str, Any], message: str) -> None:
    import gearshift.torch as gst

    with pytest.raises(InvalidArgument, match=rf"^{message}"):
        gst.profile(**arguments)
