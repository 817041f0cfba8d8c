"""The C++ library as its users get it: installed, found by CMake, and trained with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BUILD = Path(os.environ.get("GEARSHIFT_TEST_BUILD_DIR", ROOT / "build" / "release"))


def run(*command: str | Path, timeout: float = 280) -> str:
    """Standard output of a command; a failure with all that it said when it fails."""
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built against an installed gearshift and nothing else of this checkout."""
    prefix = tmp_path_factory.mktemp("prefix")
    build = tmp_path_factory.mktemp("example")
    run("cmake", "--install", BUILD, "--prefix", prefix, "--component", "development")
    run(
        "cmake",
        "-S",
        ROOT / "examples" / "cpp",
        "-B",
        build,
        "-G",
        "Ninja",
        f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCMAKE_BUILD_TYPE=Release",
    )
    run("cmake", "--build", build)
    return build / "logistic_regression"


def accuracies(output: str) -> list[float]:
    """After each epoch."""
    found = re.findall(r"test accuracy ([0-9.]+)", output)
    assert found, output
    return [float(accuracy) for accuracy in found]


def launch(workers: int, *arguments: str | Path) -> str:
    return run(sys.executable, "-m", "gearshift.cli", "run", "-n", str(workers), "--", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["all_reduce", "bsp", "asp", "switch"])
def test_trains_on_fashion_mnist(trainer: Path, strategy: str) -> None:
    output = launch(3, trainer, "--strategy", strategy, "--epochs", "3")
    # The best of the three: asynchronous steps go to and fro around what they have learned.
    assert max(accuracies(output)) > 0.75
    assert ("switched to parameter_server(asp)" in output) == (strategy == "switch")


def test_runs_alone(trainer: Path) -> None:
    assert accuracies(run(trainer, "--epochs", "1"))[-1] > 0.75


def test_synchronous_strategies_agree(trainer: Path) -> None:
    """All-Reduce and a BSP server are the same training."""
    losses = {
        strategy: re.findall(r"loss ([0-9.]+) test accuracy ([0-9.]+)", output)
        for strategy in ("all_reduce", "bsp")
        for output in [launch(2, trainer, "--strategy", strategy, "--epochs", "1")]
    }
    assert losses["all_reduce"] == losses["bsp"]


def test_says_what_is_wrong(trainer: Path) -> None:
    done = subprocess.run([trainer, "--strategy", "gossip"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "all_reduce, bsp, asp or switch, not gossip" in done.stderr
