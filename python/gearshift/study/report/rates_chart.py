"""What the learning rate does to the time to the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .analysis import Combination
from .style import Looks, handles, log_ticks, save, style

_COLUMNS = 3


@style()
def draw_rates(
    found: Sequence[Combination], titles: dict[str, str], looks: Looks, path: Path
) -> bool:
    """Of one use case and clock, a panel for each cluster; False, and no file: nothing reached."""
    if not any(group.reached for c in found for arm in c.arms for group in arm.groups):
        return False
    columns = min(_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.9 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, combination in zip(panels.flat, found, strict=False):
        _draw_rates_of(axes, combination, looks)
        axes.set_title(titles[combination.cluster])
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("time to the target (s)")
    names = {arm.strategy for combination in found for arm in combination.arms}
    legend = handles(looks, sorted(names))
    figure.legend(handles=legend, loc="outside lower center", ncols=min(5, len(legend)))
    save(figure, path)
    return True


def _draw_rates_of(axes: Axes, combination: Combination, looks: Looks) -> None:
    rates = sorted({group.rate for arm in combination.arms for group in arm.groups})
    finite = [g.time for arm in combination.arms for g in arm.groups if math.isfinite(g.time)]
    for arm in combination.arms:
        look = looks[arm.strategy]
        groups = sorted(arm.groups, key=lambda group: group.rate)
        points = [(g.rate, g.time) for g in groups if math.isfinite(g.time)]
        if points:
            axes.plot(*zip(*points, strict=True), look.line, color=look.colour, marker=look.mark)
        never = [g.rate for g in groups if not math.isfinite(g.time)]
        if finite and never:
            axes.plot(never, [max(finite) * 1.15] * len(never), look.mark, color=look.colour,
                      markerfacecolor="none")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="factor of the learning rate")
    axes.xaxis.set_major_locator(FixedLocator(rates))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if finite:
        log_ticks(axes.yaxis, min(finite) / 1.1, max(finite) * 1.2)
