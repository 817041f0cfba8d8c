"""Where the measured programs are, and whether a side can run here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from gearshift.launch import LaunchError

from .case import Side

BIN_ENVIRONMENT = "GEARSHIFT_BENCH_BIN_DIR"
"""Folder of the compiled programs, when it is not that of the release build."""


def source_folder() -> Path:
    """The folder ``bench/`` of the checkout.

    Raises:
        LaunchError: when there is none: an installed package does not have it.
    """
    import gearshift

    checkouts = (Path(gearshift.__file__).parents[2], Path.cwd())
    for checkout in checkouts:
        if (checkout / "bench" / "all_reduce.cc").exists():
            return checkout / "bench"
    raise LaunchError("bench needs a checkout of gearshift: run it there, as `make bench`")


def binary_folder() -> Path:
    """Where the compiled programs are."""
    named = os.environ.get(BIN_ENVIRONMENT)
    return Path(named) if named else source_folder().parent / "build" / "release" / "bench"


def command_of(side: Side) -> list[str]:
    """The command that starts the program, without its launcher."""
    if side.program.endswith(".py"):
        path = Path(side.program)
        path = path if path.is_absolute() else source_folder() / path
        return [sys.executable, str(path), *side.arguments]
    return [str(binary_folder() / side.program), *side.arguments]


def obstacle(side: Side) -> str | None:
    """Why a side cannot run here; None when it can."""
    if side.start == "mpirun" and shutil.which("mpirun") is None:
        return "mpirun is not installed (Debian: openmpi-bin, libopenmpi-dev)"
    for module in side.modules:
        if importlib.util.find_spec(module) is None:
            return f"the Python package {module} is not installed"
    program = Path(command_of(side)[1 if side.program.endswith(".py") else 0])
    if program.exists():
        return None
    return f"{program} does not exist (make build; peers need their headers for that)"
