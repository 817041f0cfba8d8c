"""What ``gearshift bench`` does with its options."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gearshift.launch import LaunchError
from gearshift.report.files import claimed
from gearshift.report.fit import print_table

from .display import Display, LiveDisplay, PlainDisplay
from .driver import PLOT, SUMMARY, Bench, BenchOptions
from .interrupts import endings_raised
from .registry import all_settings, select
from .results import FORMAT
from .table import counts, markdown, notes, remarks, summary_table

_MIN_WIDTH = 120


def bench(out: Path, quick: bool, patterns: Sequence[str]) -> int:
    """Measure, show the table and draw the plot; returns the exit code.

    The code is 0 when everything that could run gave right results, whatever the times; a peer that
    is not installed is no failure, but one of ours that fails is.
    """
    console = _console()
    settings = select(all_settings(), patterns, quick)
    with claimed(out), endings_raised():
        with _display(console) as display:
            summary = Bench(BenchOptions(out, quick), display).run(settings)
        show(summary, console)
        told = [_draw(summary, out), _written(summary, out)]
    for line in filter(None, told):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if "interrupted" in summary:
        return int(summary["interrupted"]["code"])
    return 1 if failed(summary) or "unwritten" in summary else 0


def list_cases(patterns: Sequence[str], quick: bool) -> int:
    """Print the names of the cases, with their sides."""
    for setting in select(all_settings(), patterns, quick):
        for case in setting.cases():
            print(f"{case:40} {', '.join(side.name for side in setting.sides)}")
    return 0


def explain_choices(patterns: Sequence[str]) -> int:
    """Print which algorithms our all-reduce chooses, and why."""
    from .explain import DEFAULT_PATTERNS, explain

    return explain(select(all_settings(), patterns or DEFAULT_PATTERNS, False), _console())


def print_markdown(out: Path) -> int:
    """Print the table of a finished run as Markdown."""
    print(markdown(_read(out)), end="")
    return 0


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the table, and below it what was skipped or went wrong."""
    print_table(console, summary_table(summary), keys=2)
    for note in (*remarks(summary), *notes(summary)):
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
    reached, checked = counts(summary)
    console.print(
        f"{reached} of {checked} targets reached, {summary['seconds']:.0f} s", highlight=False
    )


def failed(summary: dict[str, Any]) -> bool:
    """Whether a result was wrong, or a side of a case broke down."""
    return any(
        not side["verified"] for result in summary["cases"] for side in result["sides"].values()
    ) or any(
        reason.startswith(("failed", "did not start"))
        for result in summary["cases"]
        for reason in result["skipped"].values()
    )


def _read(out: Path) -> dict[str, Any]:
    path = out / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LaunchError(f"{path} does not exist: run `gearshift bench` first") from error
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise LaunchError(f"{path}: no JSON: {error}") from error
    if not isinstance(summary, dict) or summary.get("format") != FORMAT or "cases" not in summary:
        raise LaunchError(f"{path} is no summary of this `gearshift bench`")
    return summary


def _draw(summary: dict[str, Any], out: Path) -> str | None:
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from .plot import draw

    try:
        drawn = draw(summary, out / PLOT)
    except OSError as error:
        return f"No plot: {out / PLOT}: {error.strerror or error}"
    return None if drawn is None else f"Plot: {drawn}"


def _written(summary: dict[str, Any], out: Path) -> str | None:
    if "unwritten" in summary:
        return f"The numbers could not be written: {out / SUMMARY}: {summary['unwritten']}"
    return f"Numbers: {out / SUMMARY}" if summary["cases"] else None


def _console() -> Console:
    console = Console(emoji=False)  # ":ring:" is an algorithm
    if not console.is_terminal and console.width < _MIN_WIDTH:
        return Console(width=_MIN_WIDTH, emoji=False)
    return console


@contextlib.contextmanager
def _display(console: Console) -> Iterator[Display]:
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    with LiveDisplay(console) as live:
        yield live
