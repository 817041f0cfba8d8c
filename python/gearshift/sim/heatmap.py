"""The winners of a sweep as a map, with the lines at which they change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from .axes import Axis
from .crossovers import Crossover
from .table import per_second
from .winners import Cell, Grid, Leaders

_COLUMNS = 3
_MOST_MAPS = 24
_LEGEND_WIDTH = 2.6  # inches of an entry
_GREY = "#d8d8d8"
_HATCH = "////"
_LEVEL = "level: within the margin of error"


@rc_context({"text.parse_math": False})  # a "$" in a name is no formula
def draw(grid: Grid, crossovers: Sequence[Crossover], path: Path) -> Path | None:
    """Draw a sweep over its first two numeric axes; returns the path, None: there is no such axis.

    Each choice of the other axes' values gets a map of its own, up to a number.
    """
    numeric = [i for i, axis in enumerate(grid.axes) if axis.numeric]
    if not numeric:
        return None
    across, up = numeric[0], numeric[1] if len(numeric) > 1 else None
    others = [i for i in range(len(grid.axes)) if i not in (across, up)]
    maps = list(product(*(range(len(grid.axes[i].values)) for i in others)))[:_MOST_MAPS]
    colours = _colours(grid)
    columns = min(_COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    size = _size(grid.axes[across], None if up is None else grid.axes[up])
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 1), layout="constrained")
    plots = figure.subplots(rows, columns, squeeze=False)
    for axes, chosen in zip(plots.flat, maps, strict=False):
        fixed = dict(zip(others, chosen, strict=True))
        _Map(axes, grid, across, up, fixed, colours).draw(crossovers)
    for axes in plots.flat[len(maps) :]:
        axes.set_visible(False)
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    if any(found and len(found.strategies) > 1 for found in map(grid.leaders, grid.cells())):
        handles.append(Patch(facecolor="white", edgecolor="grey", hatch=_HATCH, label=_LEVEL))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(size[0] * columns / _LEGEND_WIDTH))),
    )
    figure.savefig(path, dpi=120)
    return path


def _colours(grid: Grid) -> dict[str, str]:
    """A colour for each strategy that wins anywhere."""
    winners = dict.fromkeys(
        winner.strategy for cell in grid.cells() if (winner := grid.winner(cell)) is not None
    )
    return {name: f"C{i % 10}" for i, name in enumerate(winners)}


def _size(across: Axis, up: Axis | None) -> tuple[float, float]:
    return max(4.5, 1.5 * len(across.values)), max(2.2, 0.9 * (1 if up is None else len(up.values)))


class _Map:
    """One map: cells of fixed values on all axes but two."""

    def __init__(
        self,
        axes: Axes,
        grid: Grid,
        across: int,
        up: int | None,
        fixed: dict[int, int],
        colours: dict[str, str],
    ) -> None:
        self._axes = axes
        self._grid = grid
        self._across = across
        self._up = up
        self._fixed = fixed
        self._colours = colours
        self._width = len(grid.axes[across].values)
        self._height = 1 if up is None else len(grid.axes[up].values)

    def draw(self, crossovers: Sequence[Crossover]) -> None:
        for x, y in product(range(self._width), range(self._height)):
            self._draw_cell(x, y)
        points = self._points(crossovers)
        for (x0, y0), (x1, y1) in segments(points, self._width, self._height):
            self._axes.plot([x0, x1], [y0, y1], color="black", linewidth=2)
        self._label()

    def _cell(self, x: int, y: int) -> Cell:
        indices = {**self._fixed, self._across: x}
        if self._up is not None:
            indices[self._up] = y
        return tuple(indices[i] for i in range(len(self._grid.axes)))

    def _draw_cell(self, x: int, y: int) -> None:
        cell = self._cell(x, y)
        winner, leaders = self._grid.winner(cell), self._grid.leaders(cell)
        corner = x - 0.5, y - 0.5
        colour = _GREY if winner is None else self._colours[winner.strategy]
        self._axes.add_patch(
            Rectangle(corner, 1, 1, facecolor=colour, alpha=0.55, edgecolor="white")
        )
        text = "failed"
        if winner is not None and leaders is not None:
            text = f"{per_second(winner.throughput)}/s{_lead(leaders)}"
            if len(leaders.strategies) > 1:
                hatch = Rectangle(corner, 1, 1, fill=False, hatch=_HATCH, edgecolor="#00000040")
                hatch.set_linewidth(0)
                self._axes.add_patch(hatch)
        label = self._axes.text(x, y, text, ha="center", va="center", fontsize=8, zorder=3)
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])

    def _points(self, crossovers: Sequence[Crossover]) -> dict[tuple[int, int, bool], float]:
        """Where edges between cells are crossed: (x, y, whether upwards) → position.

        Where a third strategy wins in between, which has no colour there: between both of its ends.
        """
        names = {self._grid.axes[self._across].name: False}
        if self._up is not None:
            names[self._grid.axes[self._up].name] = True
        points: dict[tuple[int, int, bool], list[float]] = {}
        for crossover in crossovers:
            x = crossover.cell[self._across]
            y = 0 if self._up is None else crossover.cell[self._up]
            if crossover.axis in names and self._cell(x, y) == crossover.cell:
                edge = x, y, names[crossover.axis]
                points.setdefault(edge, []).append(crossover.position)
        return {edge: fmean(positions) for edge, positions in points.items()}

    def _label(self) -> None:
        across = self._grid.axes[self._across]
        self._axes.set(
            xlim=(-0.5, self._width - 0.5),
            ylim=(-0.5, self._height - 0.5),
            xlabel=across.name,
            title=", ".join(
                f"{self._grid.axes[i].name}={self._grid.axes[i].show(self._grid.axes[i].values[v])}"
                for i, v in self._fixed.items()
            ),
        )
        self._axes.set_xticks(range(self._width), [across.show(v) for v in across.values])
        if self._up is None:
            self._axes.set_yticks([])
            return
        up = self._grid.axes[self._up]
        self._axes.set_ylabel(up.name)
        self._axes.set_yticks(range(self._height), [up.show(v) for v in up.values])


def _lead(leaders: Leaders) -> str:
    """How the fastest compare with the others, on a line of its own."""
    level = len(leaders.strategies)
    if leaders.lead is None:
        return "\nno difference" if level > 1 else ""
    return (f"\n{level} level," if level > 1 else "") + f"\n+{100 * leaders.lead:.1f} %"


_Point = tuple[float, float]


def segments(
    points: dict[tuple[int, int, bool], float], width: int, height: int
) -> list[tuple[_Point, _Point]]:
    """Lines through the points where the winner changes, between the centres of cells and out.

    Within each square of four cells two points are joined; more meet in their middle. A single one,
    beside cells whose winner is not known, goes half a cell. At the rim of the map lines go
    straight out.
    """
    found: list[tuple[_Point, _Point]] = []
    for x, y in product(range(width - 1), range(height - 1)):
        around: list[_Point] = [(points[x, j, False], j) for j in (y, y + 1)
                                if (x, j, False) in points]  # fmt: skip
        around += [(i, points[i, y, True]) for i in (x, x + 1) if (i, y, True) in points]
        if len(around) == 1:
            ((px, py),) = around
            found.append(((px, py), (px, y + 0.5) if py in (y, y + 1) else (x + 0.5, py)))
        elif len(around) == 2:
            found.append((around[0], around[1]))
        elif len(around) > 2:
            middle = (
                sum(px for px, _ in around) / len(around),
                sum(py for _, py in around) / len(around),
            )
            found += [(point, middle) for point in around]
    for (x, y, upwards), position in points.items():
        if not upwards:
            found += [((position, y), (position, y + out)) for out in _rim(y, height)]
        else:
            found += [((x, position), (x + out, position)) for out in _rim(x, width)]
    return found


def _rim(index: int, count: int) -> list[float]:
    """Ways out of the map: half a cell down from the first, half a cell up from the last."""
    return [-0.5] * (index == 0) + [0.5] * (index == count - 1)
