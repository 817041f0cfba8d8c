"""Learning curves of a use case, a panel for each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .analysis import Arm, Combination, Group
from .style import Look, Looks, handles, save, style

_COLUMNS = 2


@style()
def draw_curves(
    found: Sequence[Combination],
    titles: dict[str, str],
    target: float,
    metric: str,
    looks: Looks,
    path: Path,
) -> None:
    """`found` are those of one use case and clock; `titles` are of clusters, by name."""
    columns = min(_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4.9 * columns, 3.1 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, combination in zip(panels.flat, found, strict=False):
        for arm in combination.arms:
            _draw_arm(axes, arm, looks[arm.strategy])
        axes.axhline(target, color="black", linewidth=0.8)
        axes.set_title(titles[combination.cluster])
        axes.set_xlabel("virtual seconds" if combination.clock == "simulated" else "seconds")
        axes.set_xlim(left=0)
        axes.set_ylim(*_range(found, target))
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel(metric if len(metric) < 40 else "metric")
    names = {arm.strategy for combination in found for arm in combination.arms}
    legend = handles(looks, sorted(names))
    figure.legend(handles=legend, loc="outside lower center", ncols=min(5, len(legend)))
    save(figure, path)


def _draw_arm(axes: Axes, arm: Arm, look: Look) -> None:
    points = middle(arm.best)
    if not points:
        return
    seconds = [p[0] for p in points]
    axes.fill_between(
        seconds, [p[2] for p in points], [p[3] for p in points],
        color=look.colour, alpha=0.16, linewidth=0,
    )  # fmt: skip
    axes.plot(
        seconds, [p[1] for p in points], look.line, color=look.colour, marker=look.mark,
        markersize=3.2, linewidth=1.3,
    )  # fmt: skip
    if arm.best.diverged:
        axes.plot(seconds[-1], points[-1][1], "x", color=look.colour, markersize=10, mew=2)
    switches = [at[1] for run in arm.best.runs if (at := run.switched) is not None]
    if switches:
        axes.axvline(median(switches), color=look.colour, linestyle=":", linewidth=1.2)


def middle(group: Group) -> list[tuple[float, float, float, float]]:
    """Of each step at which half of the seeds or more have a point: median seconds, and median,
    least and greatest metric."""
    by_step: dict[int, list[tuple[float, float]]] = {}
    for run in group.runs:
        for point in run.curve:
            by_step.setdefault(point.step, []).append((point.seconds, point.metric))
    return [
        (
            median(s for s, _ in at),
            median(m for _, m in at),
            min(m for _, m in at),
            max(m for _, m in at),
        )
        for _, at in sorted(by_step.items())
        if 2 * len(at) >= len(group.runs)
    ]


def _range(found: Sequence[Combination], target: float) -> tuple[float, float]:
    """Of all curves, with some room: one that crashed does not press the others together."""
    metrics = [
        point.metric
        for combination in found
        for arm in combination.arms
        for run in arm.best.runs
        if run.status != "diverged"
        for point in run.curve
    ]
    low, high = min([*metrics, target]), max([*metrics, target])
    runaways = [
        point.metric
        for combination in found
        for arm in combination.arms
        for run in arm.best.diverged
        for point in run.curve
    ]
    low = min(low, max(min([*runaways, low]), low - (high - low)))
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room
