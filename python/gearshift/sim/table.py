"""Results for people: the comparison of strategies, and the winners of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from ..errors import Error
from ..report.words import count, several
from .durations import format_duration
from .result import Result
from .winners import Grid, Leaders, best

NOT_ACCURACY = (
    "asynchronous strategies (*): samples per second say nothing about how much a sample teaches; "
    "stale gradients can need more of them"
)
NOT_ACCURACY_LOCAL = (
    "local SGD (**): samples per second say nothing about how much a sample teaches; workers that "
    "train alone between two rounds can need more of them"
)


def comparison(results: Mapping[str, Result | Error]) -> Table:
    """One row per strategy; the one with the greatest throughput is marked."""
    first = next(result for result in results.values() if isinstance(result, Result))
    servers = f", {count(first.servers, 'server')}" if first.servers else ""
    table = Table(
        title=f"{escape(first.workload)} on {escape(first.cluster)}: "
        f"{count(first.workers, 'worker')}{servers}, {count(first.steps, 'step')}, "
        f"seed {first.seed}",
        caption="waiting: per step; for slower workers, and for communication" + _notes(results),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("strategy", no_wrap=True, vertical="bottom")
    for header in (
        "step\nmean",
        "step\np50",
        "step\np95",
        "samples\nper s",
        "effi-\nciency",
        "exposed\nshare",
        "wait:\nworkers",
        "wait:\ncomm.",
        "mean\nstale-\nness",
        "busiest\nlink",
    ):
        table.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    winner = fastest(results)
    for name, result in results.items():
        if isinstance(result, Result):
            table.add_row(*_cells(result, name == winner), style="bold" if name == winner else "")
        else:
            table.add_row(name, "failed", style="dim")
    return table


def learning_table(results: Mapping[str, Result], target: float | None) -> Table:
    """What each strategy has learnt.

    The one that reaches the target first is marked, of those that don't diverge: who does has not
    kept what it had reached.
    """
    table = Table(
        title="learnt, by worker 0, in virtual time",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title_justify="left",
    )
    table.add_column("strategy", no_wrap=True, vertical="bottom")
    headers = ["loss", "metric", "step", "time"]
    if target is not None:
        headers.append(f"time to\nmetric {target:g}")
    for header in headers:
        table.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    table.add_column("outcome", vertical="bottom", no_wrap=True)
    times = {} if target is None else {name: r.time_to(target) for name, r in results.items()}
    reached = {name: time for name, time in times.items() if time is not None}
    kept = [name for name in reached if results[name].diverged is None]
    first = min(kept, key=lambda name: reached[name]) if len(results) > 1 and kept else None
    for name, result in results.items():
        cells = [f"{name} \N{LEFTWARDS ARROW} first" if name == first else name]
        cells += _learnt(result)
        if target is not None:
            cells.append(short(reached[name]) if name in reached else "-")
        cells.append("" if result.diverged is None else str(result.diverged))
        table.add_row(*cells, style="bold" if name == first else "")
    return table


def _learnt(result: Result) -> list[str]:
    if not result.curve:
        return ["-"] * 4
    last = result.curve[-1]
    metric = "-" if last.metric is None else f"{last.metric:.4g}"
    return [f"{last.loss:.4g}", metric, f"{last.step:,}", short(last.seconds)]


def fastest(results: Mapping[str, Result | Error]) -> str | None:
    """The strategy with the greatest throughput, of several that trained to the end."""
    throughput = {
        name: result.throughput
        for name, result in results.items()
        if isinstance(result, Result) and result.failure is None and result.diverged is None
    }
    return best(throughput).strategy if throughput and len(results) > 1 else None


def _notes(results: Mapping[str, Result | Error]) -> str:
    worked = [r for r in results.values() if isinstance(r, Result)]
    asynchronous = f"\n{NOT_ACCURACY}" if any(r.asynchronous for r in worked) else ""
    local = f"\n{NOT_ACCURACY_LOCAL}" if any(r.local for r in worked) else ""
    return asynchronous + local


def _cells(result: Result, wins: bool) -> list[str]:
    name = result.strategy + " *" * result.asynchronous + " **" * result.local
    busiest = max((link.utilisation for link in result.links), default=None)
    return [
        f"{name} \N{LEFTWARDS ARROW} best" if wins else name,
        short(result.step_seconds.mean),
        short(result.step_seconds.p50),
        short(result.step_seconds.p95),
        per_second(result.throughput),
        f"{100 * result.efficiency:.0f} %",
        f"{100 * result.exposed_share:.0f} %",
        short(result.waiting.slower_workers),
        short(result.waiting.communication),
        "-" if result.mean_staleness is None else f"{result.mean_staleness:.2f}",
        "-" if busiest is None else f"{100 * busiest:.0f} %",
    ]


def sweep_table(grid: Grid, strategies: Sequence[str]) -> Table:
    """One row per cell: samples per second of each strategy, those of the fastest in bold."""
    table = Table(
        title="samples per second", box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left"
    )
    for axis in grid.axes:
        table.add_column(axis.name, justify="right", vertical="bottom", no_wrap=True)
    for strategy in strategies:
        header = strategy.replace("all_reduce:", "all_reduce:\n").replace("(", "\n(")
        table.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    table.add_column("winner", vertical="bottom", no_wrap=True)
    table.add_column("by", justify="right", vertical="bottom", no_wrap=True)
    for cell in grid.cells():
        leaders = grid.leaders(cell)
        found = grid.throughput.get(cell, {})
        values = [
            escape(axis.show(axis.values[i])) for axis, i in zip(grid.axes, cell, strict=True)
        ]
        for strategy in strategies:
            text = per_second(found[strategy]) if strategy in found else "failed"
            bold = leaders is not None and strategy in leaders.strategies
            values.append(f"[bold]{text}[/bold]" if bold else text)
        values += ["-", "-"] if leaders is None else _winner(leaders)
        table.add_row(*values)
    return table


def _winner(leaders: Leaders) -> list[str]:
    """Who wins, and by how much."""
    names = leaders.strategies
    by = "-" if leaders.lead is None else f"{100 * leaders.lead:.1f} %"
    if leaders.lead is None and len(names) > 1:
        return ["no difference", by]
    return [several(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more", by]


def short(seconds: float) -> str:
    """A time in three digits."""
    return format_duration(float(f"{seconds:.3g}")) if seconds > 5e-8 else "0"


def per_second(samples: float) -> str:
    """Samples per second, at least three digits."""
    return f"{samples:,.0f}" if samples >= 100 else f"{samples:.3g}"
