"""What anybody tries first with a Python package and its command."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import gearshift as gs
import gearshift.launch
from gearshift.cli import main

PACKAGE_ROOT = Path(gearshift.launch.__file__).parents[2]


def test_says_its_version() -> None:
    assert gs.__version__ == version("gearshift")


def test_names_that_are_loaded_late_are_listed() -> None:
    assert {*gs.__all__, "__version__"} <= set(dir(gs))


def test_is_a_command_of_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gearshift", "--version"],
        env={"PYTHONPATH": str(PACKAGE_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"gearshift {gs.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("report",),
        ("bench", "--markdown", "--out"),
        ("demo", "--workers", "1", "--out"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """In a line, not in a traceback."""
    file = tmp_path / "file"
    file.write_text("no folder")
    with pytest.raises(SystemExit) as end:
        main([*arguments, str(file / "results")])
    assert end.value.code == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith("gearshift")
    assert str(file / "results") in shown
    assert shown.endswith("Not a directory")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_without_every_character_get_the_rest(encoding: str) -> None:
    """As LANG=en_US.ISO-8859-1 has it on older clusters."""
    done = subprocess.run(
        [sys.executable, "-m", "gearshift", "run", "--help"],
        env={"PYTHONPATH": str(PACKAGE_ROOT), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"SCRIPT [ARGS]" in done.stdout


@pytest.mark.parametrize("closed", ["<&- >&-", ">&- 2>&-"])
def test_streams_that_are_closed_are_done_without(tmp_path: Path, closed: str) -> None:
    """As some daemons start programs; no pipe or socket may take their place."""
    script = tmp_path / "script.py"
    script.write_text("import sys; print('line'); open('done', 'w'); sys.exit(3)")
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m gearshift run -n 2 script.py {closed}"],
        env={"PYTHONPATH": str(PACKAGE_ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "done").exists()


def test_what_joins_a_job_leaves_the_numbers_of_closed_streams_alone() -> None:
    """A socket that is number 2 would be sent the log."""
    script = (
        "import os, sys, gearshift as gs; gs.init(); "
        "sys.exit(0 if all(os.readlink(f'/proc/self/fd/{n}') == os.devnull for n in (1, 2)) else 1)"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec {sys.executable} -c "$0" >&- 2>&-', script],
        env={"PYTHONPATH": str(PACKAGE_ROOT)},
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "arguments", ["--version", "run --dry-run script.py", "run --help", "bench --list"]
)
def test_a_stdout_that_is_full_is_told_in_a_line(
    tmp_path: Path, arguments: str, buffered: bool
) -> None:
    (tmp_path / "script.py").touch()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gearshift", *arguments.split()],
            env={"PYTHONPATH": str(PACKAGE_ROOT), "PYTHONUNBUFFERED": "" if buffered else "1"},
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    (told,) = done.stderr.splitlines()
    assert told.startswith("gearshift: stdout")
    assert told.endswith("No space left on device")
    assert done.returncode == 1
