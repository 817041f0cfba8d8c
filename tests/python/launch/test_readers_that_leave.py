"""Commands whose output goes to a reader that has gone, as to ``head -1``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gearshift.launch

PACKAGE_ROOT = Path(gearshift.launch.__file__).parents[2]
EXAMPLES = PACKAGE_ROOT.parent / "examples"
SIGPIPE_STATUS = 141
"""Of a process that SIGPIPE ends, as a shell tells it."""
SCRIPT = """
import torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(9):
    optimizer.zero_grad()
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
"""


def unread(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")}
    try:
        return subprocess.run(
            [sys.executable, "-m", "gearshift", *arguments],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(PACKAGE_ROOT), "NO_COLOR": "1", **variables},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writing)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("simulate", "--help"), ("bench", "--list"), ("doctor",)]
)
def test_commands_end_quietly(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = unread(tmp_path, *arguments)
    assert done.returncode == SIGPIPE_STATUS, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_was_simulated_is_written(
    tmp_path: Path, options: tuple[str, ...], unbuffered: str
) -> None:
    pytest.importorskip("gearshift._sim", reason="built without the simulator")
    files = (
        *("--cluster", str(EXAMPLES / "clusters" / "four-hosts-1g.toml")),
        *("--workload", str(EXAMPLES / "workloads" / "resnet50.toml")),
    )
    done = unread(tmp_path, "simulate", *files, *options, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == SIGPIPE_STATUS, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "runs" / "simulate" / "summary.json").exists()


def test_what_was_profiled_is_written(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "train.py").write_text(SCRIPT)
    done = unread(tmp_path, "profile", "--steps", "2", "--warmup", "1", "train.py")
    assert done.returncode == SIGPIPE_STATUS, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "workload.toml").exists()


def test_what_was_calibrated_is_written(tmp_path: Path) -> None:
    pytest.importorskip("gearshift._sim", reason="built without the simulator")
    (tmp_path / "links.json").write_text('{"links": [], "work": {"copy_bandwidth": 9e9}}')
    done = unread(tmp_path, "calibrate", "--measured", "links.json", PYTHONUNBUFFERED="1")
    assert done.returncode == SIGPIPE_STATUS, done.stderr
    assert done.stderr == ""
    assert "copy_bandwidth" in (tmp_path / "host.toml").read_text()
