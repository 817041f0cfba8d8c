"""Progress of simulations, on stderr: a bar with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_PLAIN_INTERVAL = 10.0


class Display(Protocol):
    """Takes the progress."""

    def begin(self, what: str, of: int) -> None:
        """So many pieces of work follow."""

    def advance(self, count: int) -> None:
        """So many of them are done."""


class Silent:
    """Shows nothing."""

    def begin(self, what: str, of: int) -> None:
        pass

    def advance(self, count: int) -> None:
        pass


class PlainDisplay:
    """A line every ten seconds, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what = ""
        self._of = self._done = 0
        self._last = 0.0
        self._first: tuple[float, int] | None = None
        """When the first pieces were done, and how many: until then processes had to start."""

    def begin(self, what: str, of: int) -> None:
        self._what, self._of, self._done = what, of, 0
        self._last = time.monotonic()
        self._first = None

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if self._first is None:
            self._first = now, self._done
        if now < self._last + _PLAIN_INTERVAL:
            return
        self._last = now
        self._console.print(
            f"{self._what}: {self._done}/{self._of}{self._left(now, *self._first)}",
            markup=False,
            highlight=False,
        )

    def _left(self, now: float, since: float, before: int) -> str:
        """By the pace since the first pieces were done; nothing while there is none."""
        if self._done == before:
            return ""
        left = (now - since) / (self._done - before) * (self._of - self._done)
        return f", about {left:.0f} s left"


class LiveDisplay:
    """A bar with the time that is left; may be used from several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def begin(self, what: str, of: int) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=of)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)


@contextlib.contextmanager
def display() -> Iterator[Display]:
    """The display that suits stderr."""
    console = Console(stderr=True, emoji=False)
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield LiveDisplay(progress)
