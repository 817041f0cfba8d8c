"""The C++ library as its users get it: installed, found by CMake, and trained with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gearshift_testing.cpp import ROOT, configure, launch, run


@pytest.fixture(scope="module")
def trainer(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built against an installed gearshift and nothing else of this checkout."""
    build = tmp_path_factory.mktemp("example")
    configure(ROOT / "examples" / "cpp", build, prefix)
    run("cmake", "--build", build)
    return build / "logistic_regression"


TRAINING = """
#include "gearshift/gearshift.h"
int main() {
  const double samples = 8, loss = 1, lr = 0.1, momentum = 0.9;
%s
}
"""
SIMULATION = """
int main() {
%s
  return result.ok() && result->workers.size() == 16 ? 0 : 1;
}
"""
PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(documented LANGUAGES CXX)
find_package(gearshift REQUIRED COMPONENTS %(components)s)
add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror)
add_compile_options(-Wno-unused-result)  # the page leaves the checks out
foreach(program IN ITEMS training simulation)
  add_executable(${program} ${program}.cc)
  target_link_libraries(${program} PRIVATE gearshift::gearshift gearshift::sim)
endforeach()
"""


@pytest.fixture(scope="module")
def documented(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs that docs/cpp.md shows, built as it says."""
    folder = tmp_path_factory.mktemp("documented")
    page = (ROOT / "docs" / "cpp.md").read_text()
    training, _, simulation = re.findall(r"```cpp\n(.*?)```", page, re.DOTALL)
    training = training.replace("each batch", "int batch = 0; batch < 3; ++batch")
    include, _, simulation = simulation.partition("\n")
    (folder / "training.cc").write_text(TRAINING % training)
    (folder / "simulation.cc").write_text(include + SIMULATION % simulation)
    (folder / "CMakeLists.txt").write_text(PROJECT % {"components": "sim"})
    configure(folder, folder / "build", prefix)
    run("cmake", "--build", folder / "build")
    return folder / "build"


@pytest.mark.slow
def test_what_the_page_shows_compiles_and_runs(documented: Path) -> None:
    run(documented / "training")
    command = (sys.executable, "-m", "gearshift.cli", "run", "-n", "2")
    run(*command, "--", documented / "training")
    run(*command, "--servers", "1", "--", documented / "training")
    run(documented / "simulation")


def test_a_component_that_was_not_built_is_named(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(PROJECT % {"components": "teleport"})
    done = subprocess.run(
        ["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode != 0
    assert "teleport" in done.stderr


def accuracies(output: str) -> list[float]:
    """After each epoch."""
    found = re.findall(r"test accuracy ([0-9.]+)", output)
    assert found, output
    return [float(accuracy) for accuracy in found]


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", ["all_reduce", "local_sgd(4)", "ps:bsp", "ps:asp", "switch(at=0.5)"]
)
def test_trains_on_fashion_mnist(trainer: Path, strategy: str) -> None:
    output = launch(3, trainer, "--strategy", strategy, "--epochs", "3")
    # The best of the three: asynchronous steps go to and fro around what they have learned.
    assert max(accuracies(output)) > 0.75
    assert ("switched to parameter_server(asp)" in output) == ("switch" in strategy)


@pytest.mark.parametrize(
    "strategy", ["all_reduce", "local_sgd(2)", "switch(start=all_reduce, then=local_sgd(2), at=5)"]
)
def test_ranks_may_have_different_numbers_of_batches(trainer: Path, strategy: str) -> None:
    """Of 60000 images four of seven ranks have 8572, the others 8571: one batch less."""
    output = launch(7, trainer, "--strategy", strategy, "--epochs", "2", "--batch", "2857")
    assert accuracies(output)[-1] > 0.5
    assert ("switched to local_sgd(2) after step 5" in output) == ("switch" in strategy)


def test_runs_alone(trainer: Path) -> None:
    assert accuracies(run(trainer, "--epochs", "1"))[-1] > 0.75


def test_synchronous_strategies_agree(trainer: Path) -> None:
    """All-Reduce and a BSP server are the same training."""
    losses = {
        strategy: re.findall(r"loss ([0-9.]+) test accuracy ([0-9.]+)", output)
        for strategy in ("all_reduce", "ps:bsp")
        for output in [launch(2, trainer, "--strategy", strategy, "--epochs", "1")]
    }
    assert losses["all_reduce"] == losses["ps:bsp"]


@pytest.fixture
def job(trainer: Path, tmp_path: Path) -> Path:
    """The example's job file, beside which the program is another."""
    text = (ROOT / "examples" / "jobs" / "logistic_regression.toml").read_text()
    path = tmp_path / "job.toml"
    path.write_text(re.sub('(?m)^program = ".*"$', f'program = "{trainer}"', text))
    return path


def start(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gearshift.cli", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT)


def test_a_job_file_starts_it_with_a_strategy(job: Path) -> None:
    done = start(job)
    assert done.returncode == 0, done.stderr
    assert f"{job}: strategy ps:ssp(3), 2 workers and 1 dedicated server" in done.stderr
    assert "names its strategy itself" not in done.stderr
    assert accuracies(done.stdout)[-1] > 0.7
    done = start("--servers", "0", "--strategy", "switch(at=0.5)", job)
    assert "switched to parameter_server(asp)" in done.stdout, done.stderr


def test_it_keeps_a_strategy_of_its_own(job: Path) -> None:
    done = start(job, "--strategy", "ps:bsp")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the program names its strategy itself and keeps it") == 1
    assert "consistency=ssp(3)" in done.stderr


def test_it_refuses_what_the_environment_asks_for(trainer: Path) -> None:
    environment = {**os.environ, "GEARSHIFT_STRATEGY": "gossip"}
    done = subprocess.run([trainer], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "GEARSHIFT_STRATEGY: strategy 'gossip' is none of" in done.stderr


def test_says_what_is_wrong(trainer: Path) -> None:
    done = subprocess.run([trainer, "--strategy", "gossip"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "strategy 'gossip' is none of 'all_reduce'" in done.stderr
    for option, value in (("--epochs", "3x"), ("--batch", "0"), ("--lr", "fast")):
        done = subprocess.run([trainer, option, value], capture_output=True, text=True)
        assert done.returncode == 1
        assert f"{option}: a" in done.stderr
        assert f"not '{value}'" in done.stderr
    for option, said in (("--epoch", "--epoch: known are --strategy"), ("--data", "no value")):
        done = subprocess.run([trainer, option], capture_output=True, text=True)
        assert done.returncode == 1
        assert said in done.stderr


def test_helps(trainer: Path) -> None:
    assert "[--epochs N]" in run(trainer, "--help")


def test_tells_the_others_what_failed(trainer: Path, tmp_path: Path) -> None:
    """One rank has no data: it is to blame, and the other says so."""
    script = tmp_path / "start.sh"
    script.write_text(
        'if [ "$GEARSHIFT_RANK" = 1 ]; then set -- --data /no/such/folder; fi\n'
        f'exec "{trainer}" "$@"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "gearshift.cli", "run", "-n", "2", "--", "sh", script],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1, done.stderr
    assert "rank 1 failed first: exit code 1" in done.stderr
    assert "rank 0 then exited with 75" in done.stderr
    others = [line for line in done.stderr.splitlines() if line.startswith("[0]")]
    assert any("cannot open /no/such/folder" in line for line in others), done.stderr
