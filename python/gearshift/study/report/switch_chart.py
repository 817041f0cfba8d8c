"""What switching gains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .style import Looks, handles, save, style
from .switches import Switch


@style()
def draw_switches(found: Sequence[Switch], labels: Sequence[str], looks: Looks, path: Path) -> None:
    """A row for each switch: time of its two ends in proportion to its own."""
    figure = Figure(figsize=(8, 1.5 + 0.34 * len(found)), layout="constrained")
    axes = figure.subplots()
    for y, switch in enumerate(found):
        for end, gain in ((switch.start, switch.over_start), (switch.then, switch.over_then)):
            if gain is not None and gain.ratio is not None:
                low, high = gain.ratio.low or gain.ratio.mean, gain.ratio.high or gain.ratio.mean
                look = looks[end]
                axes.plot([low, high], [y, y], color=look.colour, linewidth=1.2)
                axes.plot(gain.ratio.mean, y, look.mark, color=look.colour, markersize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="time to the target ÷ that of the switch (right of 1: gain)")
    axes.set_yticks(range(len(found)), labels)
    axes.invert_yaxis()
    _factor_ticks(axes)
    ends = {end for switch in found for end in (switch.start, switch.then)}
    legend = handles(looks, sorted(ends), line=False)
    figure.legend(handles=legend, loc="outside lower center", ncols=min(5, len(legend)))
    save(figure, path)


def _factor_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50)
             if low <= t <= high]  # fmt: skip
    if high / low > 4:
        ticks = [t for t in ticks if t not in (0.7, 0.8, 0.9, 1.1, 1.2)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"×{value:g}"))  # noqa: RUF001
