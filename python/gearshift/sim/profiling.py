"""What ``gearshift profile`` does: runs a training script until enough steps are recorded."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import runpy
import statistics
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from gearshift.errors import Error
from gearshift.launch import LaunchError
from gearshift.launch.environment import detect
from gearshift.report.files import check_new, check_writable
from gearshift.report.table import human_bytes, report_console
from gearshift.report.words import count

from .durations import format_duration
from .given import readable
from .profile_display import progress_display
from .workload import MOST_SAMPLES

if TYPE_CHECKING:
    from gearshift.torch._profile_steps import Recording

_ERROR, _INTERRUPTED = 1, 130
_THREADS_PER_CORE = 16
"""With more, nothing useful is measured, and torch ends in a fault where threads cannot be made."""


@dataclass(frozen=True)
class ProfileOptions:
    """The command line."""

    target: tuple[str, ...]
    """A script, or a module, and its arguments."""
    module: bool = False
    steps: int = 30
    warmup: int = 5
    out: Path = Path("workload.toml")
    force: bool = False
    name: str | None = None
    batch_size: int | None = None
    threads: int | None = None


class _Failed(Exception):  # noqa: N818
    """The script did; everything that there is to say has been said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def profile_script(options: ProfileOptions) -> int:
    """Record the workload of a script and write it; returns the exit code.

    Raises:
        LaunchError: when it cannot be run as asked.
    """
    _check(options)
    if options.threads is not None:
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(options.threads)
    from gearshift.torch import _profile

    if options.threads is not None:
        _profile.torch.set_num_threads(options.threads)
    # torch.compile says that hooks for all modules see its wrapper, too: they may.
    warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when there are")
    out = options.out.absolute()  # the script may change the folder
    try:
        with progress_display(options.warmup, options.steps) as on_step:
            recorder = _profile.Recorder(
                warmup=options.warmup, steps=options.steps, stop=True, on_step=on_step
            )
            with recorder, contextlib.suppress(_profile.StopProfiling):
                _run(options)
        recording = recorder.recording(options.name or _name(options), options.batch_size)
    except _Failed as failed:
        return failed.code
    except Error as error:
        print(f"gearshift profile: {error}", file=sys.stderr)
        return _ERROR
    try:  # before anything is shown: the reader of stdout may have gone
        recording.workload.save(out, _comment(recording, _profile.torch.get_num_threads()))
        failure = None
    except Error as error:
        failure = error
    show(recording)
    if failure is not None:
        print(f"gearshift profile: {failure}", file=sys.stderr)
        return _ERROR
    print(f"Workload: {options.out}")
    return 0


def show(recording: Recording) -> None:
    """Print what was recorded."""
    errors = Console(stderr=True, emoji=False)
    for warning in recording.warnings:
        errors.print(
            f"gearshift profile: warning: {warning}", markup=False, highlight=False, soft_wrap=True
        )
    workload = recording.workload
    console = report_console()
    console.print(
        f"{workload.name}: {workload.elements:,} parameters in "
        f"{count(len(workload.parameters), 'tensor')}, "
        f"{human_bytes(workload.parameter_bytes)}, batch size {workload.batch_size}",
        markup=False,
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for header in ("in the file", "median", "shortest", "longest"):
        table.add_column(header, justify="right")
    for part in ("forward", "backward", "optimizer"):
        times = [getattr(step, part) for step in recording.steps]
        found = (statistics.median(times), min(times), max(times))
        columns = getattr(workload, f"{part}_seconds"), *found
        table.add_row(part, *(_milliseconds(value) for value in columns))
    console.print(table)
    spread = workload.variability.relative_spread()
    steps = count(len(recording.steps), "step")
    console.print(
        f"forward + backward: spread {100 * spread:.1f} % over {steps}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def _comment(recording: Recording, threads: int) -> str:
    workload = recording.workload
    step = format_duration(workload.forward_seconds + workload.backward_seconds)
    return (
        f"Recorded by `gearshift profile`: {count(len(recording.steps), 'step')} on "
        f"{platform.machine()} with {count(threads, 'thread')},\n"
        f"{workload.elements:,} parameters, {step} of forward and backward on average."
    )


def _check(options: ProfileOptions) -> None:
    if options.steps < 1 or options.warmup < 0:
        raise LaunchError("profile: --steps must be at least 1, and --warmup at least 0")
    for name, value, most in (
        ("--threads", options.threads, _THREADS_PER_CORE * (os.cpu_count() or 1)),
        ("--batch-size", options.batch_size, MOST_SAMPLES),
    ):
        if value is not None and not 1 <= value <= most:
            raise LaunchError(f"profile: {name} must be at least 1, and at most {most:,}")
    script = options.target[0]
    if not options.module and not Path(script).exists():
        raise LaunchError(f"profile: {script} does not exist")
    _check_out(options.out, options.force)
    if importlib.util.find_spec("torch") is None:
        raise LaunchError("profile: needs PyTorch: pip install 'gearshift[torch]'")
    if detect().world_size > 1:
        raise LaunchError(
            "profile: this process is one of several of a job; record a workload in one alone"
        )


def _check_out(out: Path, force: bool) -> None:
    """Rather fail now than after the last step."""
    try:
        check_new(out, force)
        check_writable(out.absolute())
    except OSError as error:
        raise LaunchError(f"profile: --out {out}: {error.strerror or error}") from error


def _name(options: ProfileOptions) -> str:
    target = options.target[0]
    return readable(target.rpartition(".")[2] if options.module else Path(target).stem)


def _run(options: ProfileOptions) -> None:
    """Run the script as Python would; what it raises is shown as Python would."""
    target, *arguments = options.target
    with _as_program(target, arguments, options.module):
        try:
            if options.module:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(target, run_name="__main__")
        except SystemExit as exit_:
            _check_exit(exit_.code)
        except KeyboardInterrupt as interrupt:
            raise _Failed(_INTERRUPTED) from interrupt
        except Exception as error:
            _show_error(error)
            raise _Failed(_ERROR) from error


@contextlib.contextmanager
def _as_program(target: str, arguments: list[str], module: bool) -> Iterator[None]:
    argv, path = sys.argv[:], sys.path[0]
    sys.argv[:] = [target, *arguments]
    sys.path[0] = os.getcwd() if module else str(Path(target).resolve().parent)
    try:
        yield
    finally:
        sys.argv[:] = argv
        sys.path[0] = path


def _check_exit(code: Any) -> None:
    if code is None or code == 0:
        return
    if isinstance(code, int):
        print(f"gearshift profile: the script ended with exit code {code}", file=sys.stderr)
        raise _Failed(code)
    print(code, file=sys.stderr)
    raise _Failed(_ERROR)


def _show_error(error: Exception) -> None:
    """The traceback from the script's frames on."""
    traceback = error.__traceback__
    while traceback is not None and _is_ours(traceback):
        traceback = traceback.tb_next
    if traceback is None and not isinstance(error, SyntaxError):  # it was not even found
        print(f"gearshift profile: {error}", file=sys.stderr)
        return
    error.__traceback__ = traceback  # none of a script that Python cannot read: it says where
    sys.excepthook(type(error), error, traceback)
    print("gearshift profile: the script failed", file=sys.stderr)


def _is_ours(traceback: TracebackType) -> bool:
    name = traceback.tb_frame.f_code.co_filename
    return name == __file__ or name.startswith("<frozen ")
