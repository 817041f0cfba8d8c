"""Sections 4 and 5: what stale gradients and training alone cost, and what switching gains."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ...report.words import several
from .analysis import Comparison
from .context import Context
from .document import code, plain
from .factors_chart import Excess, draw_staleness, excesses, local_excesses
from .numbers import NONE, duration, number, times
from .switch_chart import draw_switches
from .switches import Switch, switches
from .words import lead


def write_asynchrony(context: Context) -> None:
    """Samples to the target in proportion to All-Reduce, over staleness where there is some."""
    document = context.document
    points = excesses(context.found)
    alone = _costs_of_local(context)
    document.heading(2, f"4. {_title(bool(points), bool(alone))}")
    document.paragraph(*alone)
    if not points and not alone:
        document.paragraph(
            "Left out: no combination has an asynchronous strategy or local SGD beside an"
            " All-Reduce that reaches the target."
        )
    if not points:
        return
    document.paragraph(*_costs(context, points))
    file = "staleness.png"
    draw_staleness(points, context.looks, context.use_cases, context.figures / file)
    document.figure(
        file,
        "Samples that asynchronous strategies need to the target, in proportion to All-Reduce (the"
        " black line), over the mean staleness of their gradients; a mark is a cluster, an open one"
        " at the top never reached the target.",
        "`strategies.parquet`, `samples_factor` over `mean_staleness`",
    )


def _title(asynchronous: bool, local: bool) -> str:
    if not local:
        return "What asynchrony costs"
    return "What asynchrony and local SGD cost" if asynchronous else "What local SGD costs"


def _costs_of_local(context: Context) -> list[str]:
    """Whose workers train alone between two rounds."""
    sentences = []
    for name in context.data.strategies:
        ratios = local_excesses(context.found, name)
        known = [ratio for ratio in ratios if ratio is not None]
        if known:
            sentences.append(f"{code(name)} needs {_samples(known)} the samples of All-Reduce.")
        if len(known) < len(ratios):
            sentences.append(_never(name, ratios))
    return sentences


def _samples(ratios: Sequence[float]) -> str:
    spread = f" ({number(min(ratios))} to {number(max(ratios))})" if len(ratios) > 1 else ""
    return times(median(ratios)) + spread


def _never(name: str, ratios: Sequence[float | None]) -> str:
    never = sum(ratio is None for ratio in ratios)
    return f"{code(name)} does not reach the target in {never} of {len(ratios)} combinations."


def _costs(context: Context, points: Sequence[Excess]) -> list[str]:
    sentences = []
    for name in context.data.strategies:
        own = [(staleness, ratio) for _, arm, staleness, ratio in points if arm.strategy == name]
        known = [ratio for _, ratio in own if ratio is not None]
        if known:
            sentences.append(
                f"{code(name)} needs {_samples(known)} the samples of All-Reduce, at a"
                f" median staleness of {number(median(s for s, _ in own))}."
            )
        if len(known) < len(own):
            sentences.append(_never(name, [ratio for _, ratio in own]))
    sentences += [_correlation(context, name, points) for name in context.use_cases]
    return sentences


def _correlation(context: Context, use_case: str, points: Sequence[Excess]) -> str:
    """Whether more staleness goes with more samples, by ranks (Kendall)."""
    known = [
        (staleness, ratio)
        for c, _, staleness, ratio in points
        if c.use_case == use_case and ratio is not None
    ]
    signs = [
        (b[0] - a[0]) * (b[1] - a[1])
        for i, a in enumerate(known)
        for b in known[i + 1 :]
        if a[0] != b[0] and a[1] != b[1]
    ]
    if len(known) < 3 or not signs:
        return ""
    with_it = sum(sign > 0 for sign in signs)
    return (
        f"{plain(context.use_cases[use_case])}: in {with_it} of {len(signs)} pairs of points the"
        " one with more staleness needs more samples."
    )


def write_switches(context: Context) -> None:
    """A table and a figure of all strategies that switch."""
    document = context.document
    document.heading(2, "5. What switching gains")
    found = switches(context.found)
    if not found:
        document.paragraph("Left out: no strategy of this study switches.")
        return
    document.paragraph(
        "Gain: the time to the target of staying with the first strategy, or of beginning with the"
        " second, ÷ that of the switch; above 1 the switch is faster."
    )
    document.table(
        ["Combination", "Switch", "Why", "At step", "At", "Gain over staying",
         "Gain over beginning with the second"],
        (_row(context, switch) for switch in found),
        words=3,
    )  # fmt: skip
    drawn = [s for s in found if any(g and g.ratio for g in (s.over_start, s.over_then))]
    if not drawn:
        document.paragraph(
            "A figure is left out: no switch can be compared with one of its two strategies."
        )
        return
    names = list(dict.fromkeys(switch.arm.strategy for switch in drawn))
    labels = [_label(context, s, len(names) > 1) for s in drawn]
    draw_switches(drawn, labels, context.looks, context.figures / "switches.png")
    compared = [(end, gain) for s in drawn for end, gain in
                ((s.start, s.over_start), (s.then, s.over_then))]  # fmt: skip
    ends = list(dict.fromkeys(end for end, gain in compared if gain is not None))
    document.figure(
        "switches.png",
        f"Time to the target of {several([code(end) for end in ends])} alone in proportion to the"
        " switch: right of the black line the switch is faster. Lines are 95 % intervals; an open"
        " mark at the edge never reached the target.",
        "`cells.parquet`, ratios of `time_to_target` by `seed`",
    )


def _label(context: Context, switch: Switch, with_name: bool) -> str:
    c = switch.combination
    clock = f" ({c.clock})" if len(context.data.clocks) > 1 else ""
    name = f", {switch.arm.strategy}" if with_name else ""
    return f"{context.use_cases[c.use_case]}\n{context.clusters[c.cluster]}{clock}{name}"


def _row(context: Context, switch: Switch) -> list[str]:
    group = switch.arm.best
    step = group.of_runs(lambda run: run.switched and run.switched[0])
    seconds = group.of_runs(lambda run: run.switched and run.switched[1])
    return [
        context.where(switch.combination),
        code(switch.arm.strategy),
        "; ".join(plain(reason) for reason in switch.reasons) or NONE,
        NONE if step is None else f"{step:,.0f}",
        f"{duration(seconds)}{', after the target' if switch.too_late else ''}",
        _gain(switch.over_start, switch.start),
        _gain(switch.over_then, switch.then),
    ]


def _gain(comparison: Comparison | None, name: str) -> str:
    return f"no {code(name)} here" if comparison is None else lead(comparison)
