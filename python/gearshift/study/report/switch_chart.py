"""What switching gains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .analysis import Comparison
from .style import Look, Looks, handles, save, style
from .switches import Switch


@style()
def draw_switches(found: Sequence[Switch], labels: Sequence[str], looks: Looks, path: Path) -> None:
    """A row for each switch: time of its two ends in proportion to its own."""
    figure = Figure(figsize=(8, 1.3 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    for y, switch in enumerate(found):
        for at, end, gain in _ends(switch):
            _draw_end(axes, y + at, gain, looks[end])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="time to the target ÷ that of the switch")
    axes.set_yticks(range(len(found)), labels, fontsize=8)
    axes.set_ylim(len(found) - 0.5, -0.5)
    _factor_ticks(axes)
    edge = axes.get_xlim()[1]
    for y, switch in enumerate(found):
        for at, end, gain in _ends(switch):
            if gain.ratio is None and gain.ahead and not gain.behind:
                look = looks[end]
                axes.plot(edge, y + at, look.mark, color=look.colour, markersize=7,
                          markerfacecolor="white", clip_on=False)  # fmt: skip
    ends = {end for switch in found for _, end, _ in _ends(switch)}
    legend = handles(looks, sorted(ends), line=False)
    figure.legend(handles=legend, loc="outside lower center", ncols=min(5, len(legend)))
    save(figure, path)


def _ends(switch: Switch) -> list[tuple[float, str, Comparison]]:
    """Place in the row, name and gain of those of its two ends that are in the study."""
    ends = ((-0.14, switch.start, switch.over_start), (0.14, switch.then, switch.over_then))
    return [(at, end, gain) for at, end, gain in ends if gain is not None]


def _draw_end(axes: Axes, y: float, gain: Comparison, look: Look) -> None:
    if gain.ratio is None:
        return
    low, high = gain.ratio.low or gain.ratio.mean, gain.ratio.high or gain.ratio.mean
    axes.plot([low, high], [y, y], color=look.colour, linewidth=1.2)
    axes.plot(gain.ratio.mean, y, look.mark, color=look.colour, markersize=7)


def _factor_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50)
             if low <= t <= high]  # fmt: skip
    if high / low > 2:
        ticks = [t for t in ticks if t not in (0.7, 0.9, 1.1)]
    if high / low > 5:
        ticks = [t for t in ticks if t not in (0.3, 0.8, 1.2)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"×{value:g}"))  # noqa: RUF001
