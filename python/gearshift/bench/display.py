"""What is shown during a run: a live line on a terminal, one line per case elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .table import headline


class Display(Protocol):
    """Takes the progress of a run."""

    def begin(self, cases: Sequence[str]) -> None:
        """So many cases will be measured."""

    def note(self, text: str) -> None:
        """Something other than measuring goes on."""

    def start(self, case: str) -> None:
        """A case begins."""

    def progress(self, done: int, of: int) -> None:
        """So many of its rounds are done."""

    def end(self, result: Mapping[str, Any]) -> None:
        """It is measured."""


class PlainDisplay:
    """A line for each case, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = 0
        self._done = 0
        self._began = time.monotonic()

    def begin(self, cases: Sequence[str]) -> None:
        self._count = len(cases)

    def note(self, text: str) -> None:
        pass

    def start(self, case: str) -> None:
        pass

    def progress(self, done: int, of: int) -> None:
        pass

    def end(self, result: Mapping[str, Any]) -> None:
        self._done += 1
        seconds = time.monotonic() - self._began
        self._console.print(
            f"[{self._done}/{self._count}, {seconds:.0f} s] {headline(result)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


class LiveDisplay:
    """A bar for all cases and one for the rounds of the current one."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,  # no thread that would wake up while something is measured
        )
        self._all = self._progress.add_task("cases", total=None)
        self._current = self._progress.add_task("", total=None)

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, cases: Sequence[str]) -> None:
        self._progress.update(self._all, total=len(cases))

    def note(self, text: str) -> None:
        self._progress.update(self._current, description=text, completed=0, total=None)
        self._progress.refresh()

    def start(self, case: str) -> None:
        self.note(case)

    def progress(self, done: int, of: int) -> None:
        self._progress.update(self._current, completed=done, total=of)
        self._progress.refresh()

    def end(self, result: Mapping[str, Any]) -> None:
        self._progress.console.print(headline(result), markup=False, highlight=False)
        self._progress.advance(self._all)
        self._progress.refresh()
