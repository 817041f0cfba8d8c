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
from gearshift.report.table import print_table

from .display import Display, LiveDisplay, PlainDisplay
from .driver import SUMMARY, Bench, BenchOptions
from .registry import all_settings, select
from .table import counts, markdown, notes, remarks, summary_table

_MIN_WIDTH = 120
PLOT = "times.png"


def bench(out: Path, quick: bool, patterns: Sequence[str]) -> int:
    """Measure, show the table and draw the plot; returns the exit code.

    The code is 0 when everything that could run gave right results, whatever the times; a peer that
    is not installed is no failure, but one of ours that fails is.
    """
    console = _console()
    settings = select(all_settings(), patterns, quick)
    with _display(console) as display:
        summary = Bench(BenchOptions(out, quick), display).run(settings)
    show(summary, console)
    drawn = _draw(summary, out)
    files = f"Numbers: {out / SUMMARY}" + (f"    plot: {drawn}" if drawn else "")
    console.print(files, markup=False)
    return 1 if failed(summary) else 0


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
    print_table(console, summary_table(summary))
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
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LaunchError(f"{path} does not exist: run `gearshift bench` first") from error


def _draw(summary: dict[str, Any], out: Path) -> Path | None:
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from .plot import draw

    return draw(summary, out / PLOT)


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
