"""Section 2: who wins where."""

from __future__ import annotations

from collections.abc import Sequence

from ...report.words import several
from ..cell import Clock
from .analysis import Arm, Combination, compare
from .context import Context
from .document import code, plain
from .numbers import NONE
from .winners_chart import draw_winners
from .words import lead, verdict

_WIDEST = 5
"""Clusters that stand beside each other in the matrix; more stand below each other."""


def write_winners(context: Context) -> None:
    """A matrix and a map for each clock, then the gains over All-Reduce."""
    document = context.document
    document.heading(2, "2. Who wins where")
    document.paragraph(
        "Each entry names the strategy that reaches the target first, its median time, and by how"
        " much the runner-up is slower: the geometric mean over seeds of the ratio of times, with"
        " its 95 % interval. Level: the interval includes 1, or the lead is below 1 %."
    )
    for clock in context.data.clocks:
        _matrix(context, clock)
    _gains(context)


def _matrix(context: Context, clock: Clock) -> None:
    document, found = context.document, context.of(clock=clock)
    cases = {n: t for n, t in context.use_cases.items() if context.of(clock, n)}
    places = {n: t for n, t in context.clusters.items() if context.of(clock, cluster=n)}
    if len(context.data.clocks) > 1:
        document.heading(3, clock.capitalize())
    by_place = {(c.use_case, c.cluster): c for c in found}
    grid = [[by_place.get((case, place)) for place in places] for case in cases]
    corner, rows, columns = "Use case", list(cases.values()), list(places.values())
    if len(columns) > _WIDEST and len(rows) < len(columns):
        grid = [list(column) for column in zip(*grid, strict=True)]
        corner, rows, columns = "Cluster", columns, rows
    document.table(
        [corner, *map(plain, columns)],
        (
            [plain(title), *("no result" if c is None else verdict(c) for c in row)]
            for title, row in zip(rows, grid, strict=True)
        ),
        words=len(columns) + 1,
    )
    file = f"winners-{clock}.png"
    draw_winners(grid, rows, columns, context.looks, context.figures / file)
    document.figure(
        file,
        f"Who reaches the target first ({clock}): the colour is the winner's; below its name its"
        " median time to the target and the factor by which the runner-up is slower. Hatched:"
        " level, no strategy is first by more than seeds differ.",
        f'`strategies.parquet`, where `clock` = "{clock}"',
    )
    missing = [c for c in found if c.without]
    document.bullets(
        f"{context.where(c, clock=False)}: {several([*map(code, c.without)])}"
        f" {'has' if len(c.without) == 1 else 'have'} no result."
        for c in missing
    )


def _gains(context: Context) -> None:
    found = [c for c in context.found if c.baseline is not None and len(c.arms) > 1]
    document = context.document
    if not found:
        document.paragraph(
            "Gains over All-Reduce are left out: no combination has it and another strategy."
        )
        return
    names = [
        name
        for name in context.data.strategies
        if any((a := c.arm(name)) is not None and a is not c.baseline for c in found)
    ]
    document.heading(3, "Gains over All-Reduce")
    document.paragraph(
        "Time to the target of All-Reduce ÷ that of the strategy, seed by seed: above 1 the"
        " strategy is faster. In brackets the 95 % interval."
    )
    document.table(
        ["Combination", *map(code, names)],
        ([context.where(c), *_row(c, names)] for c in found),
    )


def _row(combination: Combination, names: Sequence[str]) -> list[str]:
    base = combination.baseline
    return [
        NONE if (arm := combination.arm(name)) is None or base is None else _gain(arm, base)
        for name in names
    ]


def _gain(arm: Arm, base: Arm) -> str:
    if arm is base:
        return "1"
    if not arm.ever_reached:
        return "diverged" if arm.best.diverged else "not reached"
    if not base.ever_reached:
        return "only this one reached"
    return lead(compare(arm, base))
