"""Both clocks against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .clocks import Pair
from .style import GREY, Looks, handles, log_ticks, save, style


@style()
def draw_clocks(
    panels_of: Sequence[tuple[str, Sequence[Pair]]],
    cases: Sequence[str],
    looks: Looks,
    path: Path,
) -> None:
    """Measured over simulated, a panel for each quantity; the size of a mark is the use case's."""
    figure = Figure(figsize=(4.6 * len(panels_of) + 0.4, 4.6), layout="constrained")
    panels = figure.subplots(1, len(panels_of), squeeze=False)
    for axes, (name, pairs) in zip(panels.flat, panels_of, strict=True):
        values = [v for pair in pairs for v in (pair.simulated, pair.measured)]
        ends = [min(values) / 1.25, max(values) * 1.25]
        axes.plot(ends, ends, color="black", linewidth=0.8)
        axes.fill_between(ends, [0.9 * e for e in ends], [1.1 * e for e in ends], color=GREY,
                          alpha=0.15, linewidth=0)  # fmt: skip
        for pair in pairs:
            look = looks[pair.strategy]
            case = cases.index(pair.use_case)
            axes.plot(pair.simulated, pair.measured, look.mark, color=look.colour,
                      markerfacecolor="none" if case else look.colour,
                      markersize=7 + 2 * max(0, case - 1))  # fmt: skip
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal",
                 xlabel="simulated (s)", ylabel="measured (s)", title=name)  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            log_ticks(axis, *ends)
    names = {pair.strategy for _, pairs in panels_of for pair in pairs}
    legend = handles(looks, sorted(names), line=False)
    legend.append(Line2D([], [], color="black", linewidth=0.8, label="equal; grey: ±10 %"))
    figure.legend(handles=legend, loc="outside lower center", ncols=min(6, len(legend)))
    save(figure, path)
