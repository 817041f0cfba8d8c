"""How far a recording is: a bar on a terminal, a few lines elsewhere. On stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_PLAIN_INTERVAL = 10.0
_LIVE_INTERVAL = 0.1


@contextlib.contextmanager
def progress_display(warmup: int, steps: int) -> Iterator[Callable[[int], None]]:
    """What to call after each step, with its number from 1 (the warm-up's, too)."""
    console = Console(stderr=True, emoji=False)
    if not (console.is_terminal and sys.stdout.isatty()):
        yield _plain(console, warmup, steps)
        return
    # Redrawn by hand, between steps: a thread that draws would disturb what is measured.
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
    )
    with bar:
        yield _live(bar, warmup, steps)


def _plain(console: Console, warmup: int, steps: int) -> Callable[[int], None]:
    last = time.monotonic()

    def on_step(step: int) -> None:
        nonlocal last
        done = step - warmup
        due = time.monotonic() >= last + _PLAIN_INTERVAL
        if due or done in (0, steps):
            last = time.monotonic()
            text = f"warm-up {step}/{warmup}" if done <= 0 else f"step {done}/{steps}"
            console.print(f"gearshift profile: {text}", markup=False, highlight=False)

    return on_step


def _live(bar: Progress, warmup: int, steps: int) -> Callable[[int], None]:
    task = bar.add_task("warm-up", total=warmup or 1)
    last = float("-inf")

    def on_step(step: int) -> None:
        nonlocal last
        done = step - warmup
        if done <= 0:
            bar.update(task, completed=step)
        else:
            bar.update(task, description="recording", completed=done, total=steps)
        if time.monotonic() >= last + _LIVE_INTERVAL or done == steps:
            last = time.monotonic()
            bar.refresh()

    return on_step
