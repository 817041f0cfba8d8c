"""C++ programs of users of the library: installed, found by CMake, started by `gearshift run`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
BUILD = Path(os.environ.get("GEARSHIFT_TEST_BUILD_DIR", ROOT / "build" / "release"))


def run(*command: str | Path, timeout: float = 280) -> str:
    """Standard output of a command; a failure with all that it said when it fails."""
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def configure(source: Path, build: Path, *prefixes: Path) -> str:
    """Have CMake look for packages below the prefixes."""
    path = ";".join(str(prefix) for prefix in prefixes)
    return run("cmake", "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={path}")


def launcher(workers: int, *options: str) -> list[str]:
    """The begin of a command that starts so many of a program."""
    return [sys.executable, "-m", "gearshift.cli", "run", "-n", str(workers), *options, "--"]


def launch(workers: int, *arguments: str | Path) -> str:
    return run(*launcher(workers), *arguments)
