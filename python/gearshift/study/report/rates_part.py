"""Section 6: learning rates."""

from __future__ import annotations

from .analysis import Combination, Group
from .context import Context
from .document import code, plain
from .numbers import NONE, rate_factor
from .rates_chart import draw_rates
from .words import time_to_target


def write_rates(context: Context) -> None:
    """Time to the target by factor and strategy, where there are several factors."""
    document = context.document
    document.heading(2, "6. Learning rates")
    if not context.several_rates:
        document.paragraph("Left out: each use case was run with one learning rate.")
        return
    document.paragraph(
        "Each strategy was run at several factors of the task's learning rate, and counts with the"
        " best of them, which is bold: the one at which most seeds reach the target, and in the"
        " shortest time (geometric mean)."
    )
    for name, title in context.use_cases.items():
        rates = context.rates(name)
        if len(rates) < 2:
            document.paragraph(f"{plain(title)} was run with one.")
            continue
        document.heading(3, f"{plain(title)}: learning rates")
        if context.searched(name):
            document.paragraph(
                "Searched for each strategy, with the first seed until neither half nor twice as"
                " much is better than the best; what more seeds have run says so."
            )
        document.table(
            ["Combination", "Strategy", *map(rate_factor, rates)],
            (row for c in context.of(use_case=name) for row in _rows(context, c, rates)),
            words=2,
        )
        for clock in context.data.clocks:
            _figure(context, name, context.of(clock, name))


def _rows(context: Context, combination: Combination, rates: list[float]) -> list[list[str]]:
    rows = []
    for arm in combination.arms:
        by_rate = {group.rate: group for group in arm.groups}
        row = [context.where(combination), code(arm.strategy)]
        for rate in rates:
            group = by_rate.get(rate)
            text = NONE if group is None else _told(group, context.searched(combination.use_case))
            row.append(f"**{text}**" if group is arm.best else text)
        rows.append(row)
    return rows


def _told(group: Group, searched: bool) -> str:
    """Its time to the target; of searches with the number of seeds, where there are several."""
    text = time_to_target(group)
    if not searched or len(group.runs) < 2 or text.endswith("seeds"):
        return text
    return f"{text}, {len(group.runs)} seeds"


def _figure(context: Context, name: str, found: list[Combination]) -> None:
    if not found:
        return
    clock = found[0].clock
    file = f"rates-{name}-{clock}.png"
    if not draw_rates(found, context.clusters, context.looks, context.figures / file):
        context.document.paragraph(f"A figure ({clock}) is left out: nobody reaches the target.")
        return
    context.document.figure(
        file,
        f"{plain(context.use_cases[name])}: median time to the target by factor of the learning"
        f" rate ({clock}); open marks at the top: not reached.",
        f'`cells.parquet`, `time_to_target` over `rate`, where `use_case` = "{name}" and `clock` ='
        f' "{clock}"',
    )
