"""A map of who reaches the target first: use cases down, clusters across."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from .analysis import Combination
from .numbers import duration, times
from .style import GREY, PALE, Looks, save, style


@style()
def draw_winners(
    grid: Sequence[Sequence[Combination | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    looks: Looks,
    path: Path,
) -> None:
    """`rows` and `columns` are the titles at the grid's sides: of use cases and clusters."""
    figure = Figure(figsize=(2.6 + 2.1 * len(columns), 1.6 + 0.95 * len(rows)),
                    layout="constrained")  # fmt: skip
    axes = figure.subplots()
    for y, row in enumerate(grid):
        for x, combination in enumerate(row):
            _cell(axes, x, y, combination, looks)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), [_wrapped(title, 22) for title in columns])
    axes.set_yticks(range(len(rows)), [_wrapped(title, 24) for title in rows])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    found = [combination for row in grid for combination in row if combination is not None]
    winners = {c.first.strategy for c in found if c.first.ever_reached}
    patches = [
        Patch(facecolor=_pale(look.colour), edgecolor=look.colour, label=name)
        for name, look in looks.items()
        if name in winners
    ]
    if any(c.verdict == "level" for c in found):
        patches.append(Patch(facecolor="white", edgecolor=GREY, hatch="////", label="level"))
    if any(not c.first.ever_reached for c in found):
        patches.append(Patch(facecolor=PALE, label="target not reached"))
    figure.legend(handles=patches, loc="outside lower center", ncols=min(7, len(patches)))
    save(figure, path)


def _cell(axes: Axes, x: int, y: int, combination: Combination | None, looks: Looks) -> None:
    if combination is None:
        _box(axes, x, y, "white", PALE, "no result")
        return
    first = combination.first
    if not first.ever_reached:
        _box(axes, x, y, PALE, "white", "not reached\nby any strategy")
        return
    look = looks[first.strategy]
    text = f"{first.strategy}\n{duration(first.best.time)}\n{_lead(combination)}"
    if combination.verdict == "level":
        names = sum(len(arm.strategy) > 0 for arm in combination.level)
        text = f"{first.strategy}\n{duration(first.best.time)}\nlevel with {names} more"
        _box(axes, x, y, _pale(look.colour), GREY, text, hatch="////")
        return
    _box(axes, x, y, _pale(look.colour), look.colour, text)


def _lead(combination: Combination) -> str:
    lead = combination.lead
    if lead is None:
        return "alone"
    if lead.ratio is None or lead.ahead:
        return (
            "the others: not reached"
            if lead.ahead and lead.ratio is None
            else "in more of the seeds"
        )
    note = {1: ", one seed", 2: ", two seeds"}.get(lead.seeds, "")
    return f"{times(lead.ratio.mean)} ahead{note}"


def _box(
    axes: Axes, x: int, y: int, face: str, edge: str, text: str, hatch: str | None = None
) -> None:
    rectangle = Rectangle((x - 0.46, y - 0.43), 0.92, 0.86, facecolor=face, edgecolor=edge)
    axes.add_patch(rectangle)
    if hatch:
        axes.add_patch(
            Rectangle(
                (x - 0.46, y - 0.43),
                0.92,
                0.86,
                fill=False,
                edgecolor="#00000022",
                hatch=hatch,
                linewidth=0,
            )
        )
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5)


def _pale(colour: str, share: float = 0.35) -> str:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or text
