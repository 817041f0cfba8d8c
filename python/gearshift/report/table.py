"""The comparison of the demo's runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .words import count

_MIN_WIDTH = 100
_UNITS = ("B", "kB", "MB", "GB", "TB")


def report_console() -> Console:
    """A console on stdout that does not squeeze tables when stdout is a file or a pipe."""
    console = Console(emoji=False)
    if not console.is_terminal and console.width < _MIN_WIDTH:
        return Console(width=_MIN_WIDTH, emoji=False)
    return console


def summary_table(summary: Mapping[str, Any]) -> Table:
    """One row per run of a summary.json."""
    table = Table(
        title=f"{count(summary['workers'], 'worker')}, {count(summary['epochs'], 'epoch')}, "
        f"seed {summary['seed']}",
        caption="samples/s leaves evaluation out; seconds include it\n"
        "sent: what is reduced in shared memory, on one host, does not count",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("strategy", no_wrap=True)
    for header in (
        "test\nacc.",
        "seconds",
        "samples\nper s",
        "sent by a\nworker",
        "mean\nstale-\nness",
        "max\nstale-\nness",
        "switch\nat\nstep",
        "switch\ntook",
    ):
        table.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    for run in summary["runs"]:
        table.add_row(*_cells(run))
    return table


def human_bytes(count: float) -> str:
    """1.2 MB for 1,234,567."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _cells(run: Mapping[str, Any]) -> list[str]:
    step, seconds = run["switch_step"], run["switch_seconds"]
    return [
        str(run["strategy"]),
        f"{100 * run['test_accuracy']:.2f} %",
        f"{run['seconds']:.1f}",
        f"{run['samples_per_second']:,.0f}",
        human_bytes(run["bytes_sent_per_worker"]),
        f"{run['mean_staleness']:.2f}",
        f"{run['max_staleness']}",
        "-" if step is None else f"{step:,}",
        "-" if seconds is None else f"{1000 * seconds:.1f} ms",
    ]
