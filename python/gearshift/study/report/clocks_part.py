"""Section 7: measured against simulated."""

from __future__ import annotations

from collections.abc import Sequence

from .clocks import Order, Pair, error, orders, pairs
from .clocks_chart import draw_clocks
from .context import Context
from .document import code, plain
from .numbers import duration, percent, rate_factor

_MARKS = " Filled marks are the first use case, open ones the others, the later the larger."


def write_clocks(context: Context) -> None:
    """How far simulations were from what was measured, and whether they rank alike."""
    document = context.document
    document.heading(2, "7. Measured against simulated")
    steps = pairs(context.found, lambda group: group.of("step_mean"))
    reached = pairs(context.found, lambda group: group.time)
    if not steps:
        document.paragraph("Left out: no cell was both measured and simulated.")
        return
    panels = [("Mean step time", steps)] + ([("Time to the target", reached)] if reached else [])
    document.bullets(_sentence(context, name, found) for name, found in panels)
    ranked = orders(context.found)
    if ranked:
        document.paragraph(_order(ranked))
    cases = list(context.use_cases)
    draw_clocks(panels, cases, context.looks, context.figures / "clocks.png")
    document.figure(
        "clocks.png",
        "Measured over simulated, medians over seeds; on the black line both are equal, the grey"
        " band is ±10 %." + (_MARKS if len(cases) > 1 else ""),
        "`cells.parquet`, `step_mean` and `time_to_target` by `clock`",
    )
    document.table(
        ["Combination", "Strategy", "Step simulated", "measured", "Error", "Time to target"
         " simulated", "measured", "Error"],
        _rows(context, steps, reached),
        words=2,
    )  # fmt: skip


def _sentence(context: Context, name: str, found: Sequence[Pair]) -> str:
    of = error(found)
    where = f"{code(of.worst.strategy)}, {_place(context, of.worst)}"
    return (
        f"{name}: simulations are {percent(of.mean_absolute)} off on average over {len(found)}"
        f" pairs, at worst {percent(abs(of.worst.error))} ({where})."
    )


def _place(context: Context, pair: Pair) -> str:
    return f"{plain(context.use_cases[pair.use_case])}, {plain(context.clusters[pair.cluster])}"


def _order(ranked: Sequence[Order]) -> str:
    same = sum(order.same_first for order in ranked)
    total = sum(order.pairs for order in ranked)
    right = sum(order.pairs_right for order in ranked)
    text = f"Both clocks name the same strategy first in {same} of {len(ranked)} combinations"
    if total:
        text += f", and order {right} of {total} pairs of strategies alike that are apart by 1 %"
    return text + "."


def _rows(context: Context, steps: Sequence[Pair], reached: Sequence[Pair]) -> list[list[str]]:
    key = {(p.use_case, p.cluster, p.strategy, p.rate): p for p in reached}
    rows = []
    for pair in steps:
        other = key.get((pair.use_case, pair.cluster, pair.strategy, pair.rate))
        rate = f", rate {rate_factor(pair.rate)}" if context.several_rates else ""
        rows.append(
            [
                _place(context, pair),
                f"{code(pair.strategy)}{rate}",
                *_cells(pair),
                *(["not reached by both", "", ""] if other is None else _cells(other)),
            ]
        )
    return rows


def _cells(pair: Pair) -> list[str]:
    sign = "+" if pair.error > 0 else "-" if pair.error < 0 else ""
    return [
        duration(pair.simulated), duration(pair.measured), f"{sign}{percent(abs(pair.error))}",
    ]  # fmt: skip
