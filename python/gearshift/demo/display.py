"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gearshift.launch.output import Stream

from .events import Progress, decode

_PLAIN_INTERVAL = 10.0
_LIVE_INTERVAL = 0.2


class Display(Protocol):
    """Takes the progress of the runs."""

    def begin(self, strategy: str) -> None:
        """A run starts."""

    def progress(self, progress: Progress) -> None:
        """The current run got further."""

    def end(self, failure: str | None) -> None:
        """The current run has ended."""

    def line(self, text: str) -> None:
        """Another line of the processes' output."""


class DisplaySink:
    """The demo's place for the lines of its training processes."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def lines(self, label: str, stream: Stream, lines: list[bytes]) -> None:
        """Pick out the progress; show the rest as it is."""
        for line in lines:
            event = decode(line) if stream == "out" else None
            if event is not None:
                self._display.progress(event)
            else:
                self._display.line(f"[{label}] {line.decode(errors='replace')}")


class PlainDisplay:
    """A line every ten seconds and one per epoch, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._strategy = ""
        self._last = float("-inf")

    def begin(self, strategy: str) -> None:
        self._strategy = strategy
        self.line(f"{strategy}: starting")

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.test_accuracy is None and now < self._last + _PLAIN_INTERVAL:
            return
        self._last = now
        self.line(f"{self._strategy}: {progress.text()}")

    def end(self, failure: str | None) -> None:
        self.line(f"{self._strategy}: {'done' if failure is None else 'failed: ' + failure}")

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass
class _Row:
    state: str = "waiting"
    progress: Progress | None = None
    accuracy: float | None = None


class LiveDisplay:
    """One row per run, redrawn in place."""

    def __init__(self, console: Console, strategies: Sequence[str]) -> None:
        self._rows = {strategy: _Row() for strategy in strategies}
        self._current = _Row()
        # Redrawn by hand: the launcher forks, and a process with threads had better not.
        self._live = Live(self._table(), console=console, auto_refresh=False)
        self._drawn = float("-inf")

    def __enter__(self) -> LiveDisplay:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()
        self._live.stop()

    def begin(self, strategy: str) -> None:
        self._current = self._rows[strategy]
        self._current.state = "starting"
        self._draw()

    def progress(self, progress: Progress) -> None:
        self._current.state = "running"
        self._current.progress = progress
        if progress.test_accuracy is not None:
            self._current.accuracy = progress.test_accuracy
        if time.monotonic() >= self._drawn + _LIVE_INTERVAL:
            self._draw()

    def end(self, failure: str | None) -> None:
        self._current.state = "done" if failure is None else "failed"
        self._draw()

    def line(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(title="Fashion-MNIST", title_justify="left")
        for header in ("run", "", "epoch", "step", "loss", "samples/s", "in force", "accuracy"):
            table.add_column(header, justify="left" if header in ("run", "in force") else "right")
        for strategy, row in self._rows.items():
            table.add_row(strategy, *_cells(row))
        return table


def _cells(row: _Row) -> list[Text | ProgressBar | str]:
    now = row.progress
    if now is None:
        return [Text(row.state, style="dim")]
    bar: Text | ProgressBar = Text(row.state, style="green" if row.state == "done" else "red")
    if row.state == "running":
        passed = now.epoch if now.test_accuracy is not None else now.epoch - 1
        bar = ProgressBar(total=now.epochs, completed=passed, width=16)
    return [
        bar,
        f"{now.epoch}/{now.epochs}",
        f"{now.step:,}",
        f"{now.loss:.4f}",
        f"{now.samples_per_second:,.0f}",
        now.strategy,
        "" if row.accuracy is None else f"{100 * row.accuracy:.2f} %",
    ]
