"""Time to the target, split into how fast samples are done and how many it takes.

The picture of Zhang and Ré, "DimmWitted" (2014), and Hadjis et al., "Omnivore" (2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .analysis import Arm, Combination, compare, factors
from .numbers import duration
from .style import GREY, Look, Looks, handles, log_ticks, save, style


@style()
def draw_factors(
    found: Sequence[Combination], titles: dict[str, str], looks: Looks, path: Path
) -> bool:
    """Of one use case and clock; False, and no file, when no strategy reached the target."""
    points = [
        (i, arm.strategy, at)
        for i, combination in enumerate(found)
        for arm in combination.arms
        if (at := place(arm)) is not None
    ]
    if not points:
        return False
    figure = Figure(figsize=(7.6, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel="samples to the target (fewer is better) →",
             ylabel="samples per second until then (more is better) →")  # fmt: skip
    _limits(axes, [at for _, _, at in points])
    _iso_times(axes)
    for i, combination in enumerate(found):
        _join(axes, combination, [(name, at) for j, name, at in points if j == i])
    for i, strategy, at in points:
        look = looks[strategy]
        axes.plot(*at, look.mark, color=look.colour, markersize=8, mec="white", zorder=3)
        axes.annotate(_letter(i), at, (5, 4), textcoords="offset points", fontsize=8, zorder=4)
    names = {strategy for _, strategy, _ in points}
    legend = handles(looks, sorted(names), line=False)
    legend += [
        Line2D([], [], linestyle="none", label=f"{_letter(i)}  {titles[found[i].cluster]}")
        for i in dict.fromkeys(i for i, _, _ in points)
    ]
    figure.legend(handles=legend, loc="outside right upper", fontsize=8)
    save(figure, path)
    return True


def _join(
    axes: Axes, combination: Combination, points: Sequence[tuple[str, tuple[float, float]]]
) -> None:
    """Lines from All-Reduce to the others; without it, from the first of them."""
    base = combination.baseline
    names = [name for name, _ in points]
    if not points:
        return
    hub = dict(points)[base.strategy if base and base.strategy in names else names[0]]
    for _, at in points:
        axes.plot([hub[0], at[0]], [hub[1], at[1]], color=GREY, linewidth=0.7, zorder=1)


def place(arm: Arm) -> tuple[float, float] | None:
    """Median samples to the target, and samples per second until then so that the product with
    the median time is right; None: most seeds do not reach it."""
    samples = arm.best.of_runs(lambda run: run.samples)
    if samples is None or not math.isfinite(arm.best.time) or not arm.best.time:
        return None
    return samples, samples / arm.best.time


def _letter(index: int) -> str:
    """a, b, … z, aa, ab, …"""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def _limits(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Some room, and round ticks."""
    for values, set_limits, axis in (
        ([p[0] for p in points], axes.set_xlim, axes.xaxis),
        ([p[1] for p in points], axes.set_ylim, axes.yaxis),
    ):
        low, high = min(values), max(values)
        room = max(1.25, (high / low) ** 0.08)
        set_limits(low / room, high * room)
        log_ticks(axis, low / room, high * room)


def _iso_times(axes: Axes) -> None:
    """Dashed lines of equal time: samples ÷ speed."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    for seconds in _between(x0 / y1, x1 / y0):
        axes.plot([x0, x1], [x0 / seconds, x1 / seconds], "--", color=GREY, linewidth=0.7, zorder=0)
        top = min(y1, x1 / seconds)  # where the line leaves the picture
        side = "left" if top == y1 else "right"
        axes.annotate(duration(seconds), (top * seconds, top), (2, -2), fontsize=7.5, color=GREY,
                      textcoords="offset points", va="top", ha=side)  # fmt: skip
    axes.set(xlim=(x0, x1), ylim=(y0, y1))


def _between(least: float, most: float) -> list[float]:
    """Round times, four of them at least if there are so many, not too near to the ends."""
    low, high = least * (most / least) ** 0.08, most / (most / least) ** 0.08
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [d * 10.0**e for e in range(-9, 10) for d in digits if low < d * 10.0**e < high]
        if len(found) >= 4:
            break
    return found


Excess = tuple[Combination, Arm, float, float | None]


def excesses(found: Sequence[Combination]) -> list[Excess]:
    """Of strategies with stale gradients: mean staleness and samples in proportion to All-Reduce.

    The last is None where the strategy reached the target in no seed that All-Reduce did.
    """
    points: list[Excess] = []
    for combination in found:
        base = combination.baseline
        if base is None or not base.ever_reached:
            continue
        for arm in combination.arms:
            staleness = arm.best.of("mean_staleness")
            if arm.kind != "asynchronous" or staleness is None:
                continue
            if compare(arm, base).seeds:
                why = factors(arm, base)
                points.append((combination, arm, staleness, None if why is None else why.samples))
    return points


def local_excesses(found: Sequence[Combination], name: str) -> list[float | None]:
    """The same of one strategy of local SGD, in the combinations where it can be compared."""
    ratios: list[float | None] = []
    for combination in found:
        arm, base = combination.arm(name), combination.baseline
        if arm is None or arm.kind != "local" or base is None or not base.ever_reached:
            continue
        if compare(arm, base).seeds:
            why = factors(arm, base)
            ratios.append(None if why is None else why.samples)
    return ratios


@style()
def draw_staleness(points: Sequence[Excess], looks: Looks, titles: dict[str, str],
                   path: Path) -> None:  # fmt: skip
    """A panel for each use case; open marks at the top are strategies that never got there."""
    cases = list(dict.fromkeys(c.use_case for c, _, _, _ in points))
    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    figure = Figure(figsize=(3.5 * columns + 0.4, 3.2 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    known = [ratio for _, _, _, ratio in points if ratio is not None]
    top = max([*known, 1.2]) * 1.15
    for axes, case in zip(panels.flat, cases, strict=False):
        for combination, arm, staleness, ratio in points:
            if combination.use_case == case:
                _draw_excess(axes, staleness, ratio, top, looks[arm.strategy])
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(title=titles[case], xlabel="mean staleness (versions)")
        axes.set_xlim(left=0)
        axes.set_ylim(min([*known, 1]) * 0.9, top * 1.08)
    for axes in panels.flat[len(cases) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("samples to the target ÷ those of All-Reduce")
    legend = handles(looks, sorted({arm.strategy for _, arm, _, _ in points}), line=False)
    figure.legend(handles=legend, loc="outside lower center", ncols=min(5, len(legend)))
    save(figure, path)


def _draw_excess(axes: Axes, staleness: float, ratio: float | None, top: float, look: Look) -> None:
    face = look.colour if ratio is not None else "none"
    axes.plot(staleness, top if ratio is None else ratio, look.mark, color=look.colour,
              markerfacecolor=face, markersize=7)  # fmt: skip
