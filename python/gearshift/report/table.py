"""The comparison of the demo's runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_MIN_WIDTH = 100
_WIDEST = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB")


def report_console() -> Console:
    """A console on stdout that does not squeeze tables when stdout is a file or a pipe."""
    console = Console(emoji=False)
    if not console.is_terminal and console.width < _MIN_WIDTH:
        return Console(width=_MIN_WIDTH, emoji=False)
    return console


def print_table(console: Console, table: Table) -> None:
    """Print a table whole: what a narrow terminal has no room for goes below, not away.

    Each part begins with the columns that tell rows apart.
    """
    for part in _parts(table, lambda t: _width(t, console) <= console.width):
        console.print(part)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """One row per run of a summary.json."""
    table = Table(
        title=f"{summary['workers']} workers, {summary['epochs']} epochs, seed {summary['seed']}",
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


def _parts(table: Table, fits: Callable[[Table], bool]) -> list[Table]:
    parts: list[Table] = []
    keys = list(range(_keys(table)))
    chosen = keys[:]
    for column in range(len(keys), len(table.columns)):
        if len(chosen) > len(keys) and not fits(_with_columns(table, [*chosen, column])):
            parts.append(_with_columns(table, chosen))
            chosen = keys[:]
        chosen.append(column)
    parts.append(_with_columns(table, chosen))
    if len(parts) == 1:
        return [table]
    parts[0].title, parts[-1].caption = table.title, table.caption
    return parts


def _keys(table: Table) -> int:
    """How many of the first columns it takes to tell the rows apart: the axes of a sweep."""
    rows = list(zip(*(map(str, column.cells) for column in table.columns), strict=True))
    enough = (n for n in range(1, len(table.columns)) if len({r[:n] for r in rows}) == len(rows))
    return next(enough, 1)


def _with_columns(table: Table, chosen: Sequence[int]) -> Table:
    """Some of a table's columns, without what stands above and below it."""
    part = Table(
        box=table.box,
        padding=table.padding,
        pad_edge=table.pad_edge,
        title_justify=table.title_justify,
        caption_justify=table.caption_justify,
    )
    columns = [table.columns[index] for index in chosen]
    part.columns = [column.copy() for column in columns]
    for index, column in enumerate(part.columns):
        column._index = index
    cells = zip(*(column.cells for column in columns), strict=True)
    for row, values in zip(table.rows, cells, strict=True):
        part.add_row(*values, style=row.style)
    return part


def _width(table: Table, console: Console) -> int:
    """What it takes to print each cell on one line."""
    return console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum


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
