"""The doctor's findings and tables, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..report.fit import print_table
from ..report.table import human_bytes
from ..sim.durations import short_duration
from .finding import Finding, Level
from .process import Process, labels
from .together import Report

_STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_TOPIC_WIDTH = 22


def print_finding(console: Console, finding: Finding) -> None:
    """What was found; below it, unless it is as it should be, why that matters and what to do."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=7, no_wrap=True)
    grid.add_column(width=_TOPIC_WIDTH)
    grid.add_column(ratio=1, overflow="fold")
    text = Text(finding.found)
    for name, words in (("why: ", finding.why), ("do:  ", finding.todo)):
        if words:
            text.append("\n" + name, style="dim")
            text.append(words)
    grid.add_row(Text(finding.level, style=_STYLES[finding.level]), Text(finding.topic), text)
    console.print(grid)


def print_verdict(console: Console, findings: Sequence[Finding]) -> None:
    problems = sum(finding.level == "problem" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    counts = f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}"
    if problems:
        words, style = f"{counts}: a job cannot run like this", _STYLES["problem"]
    elif warnings:
        words, style = f"{counts}: a job can run", _STYLES["warning"]
    else:
        words, style = "all is well", _STYLES["ok"]
    console.print(Text(words, style=style))


def print_report(console: Console, report: Report) -> None:
    """Of a job: hosts, links, all-reduces, then what was found."""
    if report.processes:
        print_table(console, _processes_table(report), 1)
    if report.links:
        print_table(console, _links_table(report), 2)
    for entry in report.all_reduces:
        console.print(
            Text(
                f"all-reduce of {entry['bytes'] / 1024:,.0f} KiB: "
                f"{short_duration(entry['seconds'])}; {entry['how']}"
            )
        )
    if report.all_reduces:
        console.print()
    for finding in report.findings:
        print_finding(console, finding)
    print_verdict(console, report.findings)


def _processes_table(report: Report) -> Table:
    table = _table(
        f"{len(report.processes)} of {report.world} processes",
        "Gflop/s, GB/s copied: of all ranks at once",
    )
    columns = ("rank", "host", "listens at", "gearshift", "Python", "torch", "cores", "threads")
    for header in (*columns, "vectors", "Gflop/s", "GB/s"):
        table.add_column(header, no_wrap=True)
    for process in report.processes:
        rates = report.paces.get(process.rank)
        table.add_row(
            str(process.rank),
            process.host,
            _listens(process),
            *(str(process.versions.get(name) or "-") for name in ("gearshift", "python", "torch")),
            str(process.allowed),
            process.omp_threads or "-",
            process.simd or "-",
            f"{rates.flops / 1e9:,.1f}" if rates else "-",
            f"{rates.copied / 1e9:.2f}" if rates else "-",
        )
    return table


def _listens(process: Process) -> str:
    return f"{process.address} ({process.interface})" if process.interface else process.address


def _links_table(report: Report) -> Table:
    pairs = ", ".join(f"{count} over {name}" for name, count in report.transports.items())
    table = _table(
        f"Pairs of processes: {pairs}", "measured: one pair of each host, and each pair of hosts"
    )
    names = labels(report.processes)
    for header in ("from", "to", "transport", "latency", "there", "back", "clock"):
        table.add_column(header, no_wrap=True, justify="left" if header in "from to" else "right")
    for link in report.links:
        table.add_row(
            _end(link.a, names[link.a]),
            _end(link.b, names[link.b]),
            link.transport,
            f"{1e6 * link.latency:,.0f} µs",
            f"{human_bytes(link.there)}/s",
            f"{human_bytes(link.back)}/s",
            f"{1e3 * link.clock:+.1f} ms" if link.remote else "-",
        )
    return table


def _end(rank: int, name: str) -> str:
    return f"rank {rank}, {name}"


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
