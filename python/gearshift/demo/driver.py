"""Runs the demo: each strategy in turn through the launcher, then the comparison."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from gearshift.launch import LaunchError
from gearshift.launch.launcher import launch
from gearshift.launch.plan import LaunchOptions
from gearshift.report.files import claimed, write_json
from gearshift.report.fit import print_table
from gearshift.report.table import report_console, summary_table
from gearshift.report.words import count

from . import STRATEGIES
from .display import Display, DisplaySink, LiveDisplay, PlainDisplay
from .events import ENVIRONMENT
from .run_folder import clear, read_result

SUMMARY = "summary.json"
CURVES = "curves.png"


@dataclass(frozen=True)
class DemoOptions:
    """What to run; the defaults take less than ten minutes on two cores."""

    workers: int = 4
    epochs: int = 9
    limit: int | None = None
    seed: int = 0
    strategies: tuple[str, ...] = STRATEGIES
    out: Path = Path("runs/demo")
    data: Path | None = None

    def with_epochs(self, epochs: int) -> DemoOptions:
        """The same with another number of epochs."""
        return replace(self, epochs=epochs)

    def with_strategies(self, names: str) -> DemoOptions:
        """The same with the strategies of a comma-separated list."""
        return replace(
            self, strategies=tuple(dict.fromkeys(name.strip() for name in names.split(",")))
        )

    def check(self) -> None:
        """Refuse what cannot run.

        Raises:
            LaunchError: with what is wrong.
        """
        for name, value in (("--workers", self.workers), ("--epochs", self.epochs)):
            if value < 1:
                raise LaunchError(f"{name} {value}: give at least 1")
        if self.limit is not None and self.limit < self.workers:
            raise LaunchError(f"--limit {self.limit}: give at least one image for each worker")
        unknown = [name for name in self.strategies if name not in STRATEGIES]
        if unknown or not self.strategies:
            raise LaunchError(
                f"--strategies: {', '.join(unknown) or 'none'} given; "
                f"choose from {', '.join(STRATEGIES)}"
            )


def run_demo(options: DemoOptions) -> int:
    """Run the demo and show its table; returns the exit code.

    Where a run fails, or is interrupted, the table has those before it.

    Raises:
        LaunchError: when something that it needs is missing.
    """
    options.check()
    _check_installed()
    _check_data(options.data)
    with claimed(options.out):
        for name in (SUMMARY, CURVES):
            (options.out / name).unlink(missing_ok=True)
        return _run_all(options, report_console())


def _run_all(options: DemoOptions, console: Console) -> int:
    runs: list[dict[str, Any]] = []
    failed, code = None, 0
    began = time.monotonic()
    with _display(console, options) as display:
        for strategy in options.strategies:
            code, result = _run_one(options, strategy, display)
            if result is None:
                failed, code = strategy, code or 1
                break
            runs.append(result)
    seconds = time.monotonic() - began
    if runs:
        concluded = _conclude(options, runs, failed, seconds, console)
        code = code or concluded
    if failed is not None:
        console.print(f"gearshift demo: the run of {failed} failed (see above)")
    return code


def _conclude(
    options: DemoOptions,
    runs: list[dict[str, Any]],
    failed: str | None,
    seconds: float,
    console: Console,
) -> int:
    from gearshift.report.curves import draw_curves  # Matplotlib takes a second to import

    summary = {
        "workers": options.workers,
        "epochs": options.epochs,
        "seed": options.seed,
        "limit": options.limit,
        "seconds": seconds,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "runs": runs,
        "failed": failed,
    }
    print_table(console, summary_table(summary))
    try:
        write_json(options.out / SUMMARY, summary)
        curves = draw_curves(options.out, [run["strategy"] for run in runs])
    except OSError as error:
        console.print(f"gearshift demo: {options.out}: {error.strerror or error}", markup=False)
        return 1
    files = f"Curves: {curves}    numbers: {options.out / SUMMARY}"
    console.print(files, markup=False, highlight=False)
    idle = [
        run for run in runs if run["strategy"] == "strategy_switch" and run["switch_step"] is None
    ]
    if idle:
        console.print(
            "gearshift demo: strategy_switch never switched, as its policy saw no plateau "
            f"within {count(options.epochs, 'epoch')}; give more --epochs"
        )
    return 1 if idle else 0


def _run_one(
    options: DemoOptions, strategy: str, display: Display
) -> tuple[int, dict[str, Any] | None]:
    folder = options.out / strategy
    clear(folder)
    display.begin(strategy)
    outcome = launch(
        LaunchOptions(
            target=("gearshift.demo.train", *_arguments(options, strategy, folder)),
            kind="module",
            processes=options.workers,
            log_dir=folder / "logs",
        ),
        environ={"OMP_NUM_THREADS": "1", **os.environ, ENVIRONMENT: "1"},
        sink=DisplaySink(display),
    )
    result = read_result(folder) if outcome.returncode == 0 else None
    failure = None if result is not None else outcome.message or f"no result in {folder}"
    display.end(failure)
    return outcome.returncode, result


def _arguments(options: DemoOptions, strategy: str, folder: Path) -> list[str]:
    arguments = [
        *("--strategy", strategy, "--epochs", str(options.epochs)),
        *("--seed", str(options.seed), "--out", str(folder)),
    ]
    if options.limit is not None:
        arguments += ["--limit", str(options.limit)]
    if options.data is not None:
        arguments += ["--data", str(options.data)]
    return arguments


@contextlib.contextmanager
def _display(console: Console, options: DemoOptions) -> Iterator[Display]:
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    with LiveDisplay(console, options.strategies) as live:
        yield live


def _check_installed() -> None:
    needed = ("torch", "numpy", "safetensors", "matplotlib")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise LaunchError(
            f"the demo needs {', '.join(missing)}; install with: pip install 'gearshift[demo]'"
        )


def _check_data(folder: Path | None) -> None:
    from gearshift.data.fashion_mnist import DatasetError, check_present

    try:
        check_present(folder)
    except DatasetError as error:
        raise LaunchError(str(error)) from error
