"""A picture of what simulations learnt over virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Unsupported
from ..report.words import count

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as missing:
    raise Unsupported(
        "matplotlib is not installed; `pip install 'gearshift[sim]'` does it"
    ) from missing

if TYPE_CHECKING:
    from .result import Result


@rc_context({"text.parse_math": False})  # a "$" in a name is no formula
def draw_curves(results: Mapping[str, Result], path: Path, target: float | None = None) -> Path:
    """One line for each strategy; returns the path."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    draw_learning(axes, results, target)
    first = next(iter(results.values()))
    figure.suptitle(f"{first.workload} on {first.cluster}, {count(first.workers, 'worker')}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def draw_learning(axes: Axes, results: Mapping[str, Result], target: float | None = None) -> None:
    """The metric (the loss, where there is none) over virtual time.

    Dotted lines are switches, crosses the places where training diverged.
    """
    by_metric = any(p.metric is not None for result in results.values() for p in result.curve)
    for number, (name, result) in enumerate(results.items()):
        colour = f"C{number}"
        points = [(p.seconds, p.metric if by_metric else p.loss) for p in result.curve]
        known = [(x, y) for x, y in points if y is not None]
        label = name if result.diverged is None else f"{name} (diverged)"
        axes.plot([x for x, _ in known], [y for _, y in known], ".-", color=colour, label=label)
        if result.diverged is not None and known:
            axes.plot(*known[-1], "x", color=colour, markersize=10)
        for at in _switch_times(result):
            axes.axvline(at, color=colour, linestyle=":", linewidth=1)
    if target is not None and by_metric:
        axes.axhline(target, color="black", linewidth=0.8)
    axes.set(xlabel="virtual time (s)", ylabel="metric" if by_metric else "loss", title="Learning")
    axes.grid(alpha=0.3)
    axes.legend()


def _switch_times(result: Result) -> list[float]:
    """When worker 0 had done the step after which the strategy changed."""
    ends = next(w["end"] for w in result.raw["workers"] if w["rank"] == 0)
    limit = float("inf") if result.diverged is None else result.diverged.seconds
    times = [ends[s["step"] - 1] for s in result.switches if 1 <= s["step"] <= len(ends)]
    return [time for time in times if time <= limit]
