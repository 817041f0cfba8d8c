"""libtorch modules: the header as its users compile it, judged by libtorch in one process."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from gearshift_testing.cpp import ROOT, configure, launch, launcher, run

SOURCES = Path(__file__).with_name("torch_cases")
PARTS = ("equality", "refusals", "around", "local", "local_writes", "local_state")
NAMES = re.findall(
    r"^CASE\((\w+)\)",
    "".join((SOURCES / f"{part}.h").read_text() for part in PARTS),
    re.MULTILINE,
)


def torch_prefix() -> Path:
    """torch.utils.cmake_prefix_path, without importing torch."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "share" / "cmake"


@pytest.fixture(scope="module")
def program(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases, what docs/cpp.md shows and the example, in one program."""
    build = tmp_path_factory.mktemp("libtorch")
    page = (ROOT / "docs" / "cpp.md").read_text()
    _, shown, _ = re.findall(r"```cpp\n(.*?)```", page, re.DOTALL)
    lines = [line for line in shown.splitlines() if not line.startswith("#include")]
    shown = "\n".join(lines).replace("each batch x, y", "int batch = 0; batch < 3; ++batch")
    (build / "documented.inc").write_text(shown)
    configure(SOURCES, build, prefix, torch_prefix())
    run("cmake", "--build", build)
    return build / "torch_cases"


@functools.cache
def outcomes(program: Path, workers: int, servers: int) -> dict[tuple[int, str], str]:
    """What each rank says of each case: one job runs them all, until one fails."""
    command = [*launcher(workers, "--servers", str(servers)), program, "cases"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    found = re.findall(r"(\d+) (\w+) (.*)$", done.stdout, re.MULTILINE)
    result = {(int(rank), name): outcome for rank, name, outcome in found if name in NAMES}
    result[-1, ""] = done.stdout + done.stderr
    return result


@pytest.mark.parametrize(("workers", "servers"), [(1, 0), (2, 0), (3, 0), (2, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_libtorch(program: Path, workers: int, servers: int, name: str) -> None:
    said = outcomes(program, workers, servers)
    for rank in range(workers):
        assert said.get((rank, name)) == "ok", said[-1, ""]


def test_a_second_step_is_warned_of(program: Path) -> None:
    """Under All-Reduce and under local SGD."""
    assert outcomes(program, 1, 0)[-1, ""].count("leave out optimizer.step()") == 2


def test_a_plateau_that_cannot_come_is_warned_of_once(program: Path) -> None:
    said = [
        line for line in outcomes(program, 2, 0)[-1, ""].splitlines() if "will not fire" in line
    ]
    assert len(said) == 1, said
    assert "loss_plateau(window=6, threshold=0.01) will not fire" in said[0]
    assert said[0].startswith("[0]")


def test_a_rank_that_dies_is_named(program: Path) -> None:
    done = subprocess.run(
        [*launcher(2), program, "die"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 3, done.stderr
    assert "rank 1 failed first: exit code 3" in done.stderr
    assert "rank 0 then exited with 75" in done.stderr
    others = [line for line in done.stderr.splitlines() if line.startswith("[0]")]
    assert any("peer_lost" in line and "rank 1" in line for line in others), done.stderr


def test_a_join_without_a_thread_to_have_is_an_error(program: Path) -> None:
    done = subprocess.run(
        [*launcher(1), program, "scarce"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1, done.stderr
    assert "join of several modules: no thread for gs-join" in done.stderr


def test_what_the_page_shows_runs(program: Path) -> None:
    run(program, "documented")
    launch(2, program, "documented")
    run(*launcher(2, "--servers", "1"), program, "documented")


def test_the_example_learns(program: Path) -> None:
    started = launcher(2, "--strategy", "switch(at=0.5)")
    output = run(*started, program, "example", "--samples", "6000", "--batch", "50")
    found = re.findall(r"test accuracy ([0-9.]+)", output)
    assert max(float(accuracy) for accuracy in found) > 0.7, output
    assert "switched to parameter_server(asp)" in output


def test_the_example_says_what_is_wrong(program: Path) -> None:
    done = subprocess.run(
        [program, "example", "--strategy", "gossip"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "gossip" in done.stderr
    assert "all_reduce" in done.stderr
