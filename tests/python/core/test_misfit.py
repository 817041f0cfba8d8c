"""Python files beside a compiled part of other sources, as after `git pull` without a build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gearshift.launch
from gearshift import _bindings

PACKAGE = Path(gearshift.launch.__file__).parents[1]
EXAMPLES = PACKAGE.parents[1] / "examples"
STORE = ["store", "127.0.0.1:0", "--token-file", "token"]
SIMULATE = [
    "simulate",
    *("--cluster", str(EXAMPLES / "clusters" / "four-hosts-1g.toml")),
    *("--workload", str(EXAMPLES / "workloads" / "resnet50.toml")),
]
NOT_THE_INSTALLED_ONE = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, whose Python files are of other sources; for child processes, too."""
    (tmp_path / "sitecustomize.py").write_text(NOT_THE_INSTALLED_ONE)
    copy = tmp_path / "gearshift"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "data"))
    file = copy / "_bindings.py"
    file.write_text(re.sub('DIGEST = ".*"', 'DIGEST = "of another day"', file.read_text()))
    return copy


def run_with(package: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=package.parent,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_import_says_what_to_do(package: Path) -> None:
    done = run_with(package, "import gearshift as gs\ngs.init()\n")
    said = [line for line in done.stderr.splitlines() if "Error" in line]
    assert len(said) == 1, done.stderr
    assert said[0].startswith(f"ImportError: gearshift's compiled part, {package}/_core.")
    assert f"(bindings {_bindings.DIGEST}, they have of another day)" in said[0]
    assert "`make setup`" in said[0]
    assert "`pip install .`" in said[0]


def test_files_that_are_too_old_to_know(package: Path) -> None:
    (package / "_bindings.py").unlink()
    done = run_with(package, "import gearshift._core\n")
    assert "ImportError: gearshift's compiled part" in done.stderr
    assert "they have older ones" in done.stderr


@pytest.mark.parametrize("arguments", [["doctor"], STORE, SIMULATE])
def test_commands_show_no_traceback(package: Path, arguments: list[str]) -> None:
    token = package.parent / "token"
    token.write_text("c" * 64)
    token.chmod(0o600)
    done = run_with(package, f"from gearshift.cli import main\nmain({arguments})\n")
    assert "line " not in done.stderr, "a traceback"
    assert "gearshift's compiled part" in done.stderr + " ".join(done.stdout.split())
    assert done.returncode != 0


def test_the_simulator_is_not_said_to_be_missing(package: Path) -> None:
    pytest.importorskip("gearshift._sim", reason="built without the simulator")
    shutil.copy(PACKAGE / "_bindings.py", package)
    load = "from gearshift.sim import extension\n"
    assert run_with(package, load + "extension.load()\n").returncode == 0
    later = f"import gearshift._core, gearshift._bindings as b\nb.DIGEST = 'later'\n{load}"
    done = run_with(package, later + "extension.load()\n")
    assert "Unsupported: gearshift's compiled part" in done.stderr
    assert "without the simulator" not in done.stderr
