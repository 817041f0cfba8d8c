"""``gearshift bench --explain``: what our all-reduce chooses, and why."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from . import place
from .case import OURS, Setting
from .display import PlainDisplay
from .driver import Bench, BenchOptions
from .hosts import NamespaceError
from .side import SideError

DEFAULT_PATTERNS = ("one_host/[24]/float32", "hosts/4x1/1gbit", "hosts/4x1/unshaped", "hosts/2x2")


def explain(settings: Sequence[Setting], console: Console) -> int:
    """Start our ranks in each setting, and print what they say; returns the exit code."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="gearshift-explain-") as folder:
        for setting in settings:
            if setting.kind != "all_reduce":
                continue
            console.print(f"[bold]{setting.title}[/bold]", highlight=False)
            try:
                _explain_setting(setting, Path(folder), console)
            except (NamespaceError, SideError) as error:
                console.print(f"  {error}", markup=False, highlight=False, soft_wrap=True)
                failed += isinstance(error, SideError)
    return 1 if failed else 0


def _explain_setting(setting: Setting, folder: Path, console: Console) -> None:
    ours = next(side for side in setting.sides if side.name == OURS)
    reason = place.obstacle(ours)
    if reason is not None:
        raise SideError(reason)
    bench = Bench(BenchOptions(folder), PlainDisplay(Console(quiet=True)))
    with bench.running(replace(setting, sides=(ours,)), folder) as running:
        if ours.name not in running.sides:
            raise SideError(running.skipped[ours.name])
        for point in setting.points:
            order = {**point.order, "operations": 1, "batches": 1, "explain": 1}
            note = running.sides[ours.name].turn(order).note
            console.print(
                f"  {point.name:>7}  {note}", markup=False, highlight=False, soft_wrap=True
            )
