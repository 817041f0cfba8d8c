"""A picture of one result: the times of its steps, and the use of its links."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Unsupported
from .curves_plot import draw_learning

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

_MOST_LINKS = 24


@rc_context({"text.parse_math": False})  # a "$" in a name is no formula
def draw(result: Result, path: Path) -> Path:
    """See :meth:`Result.plot`."""
    columns = 3 if result.curve else 2
    figure = Figure(figsize=(5.5 * columns, 4.4), layout="constrained")
    times, links, *learning = figure.subplots(1, columns)
    _draw_times(times, result)
    _draw_links(links, result)
    for axes in learning:
        draw_learning(axes, {result.strategy: result})
    figure.suptitle(f"{result.strategy}: {result.workload} on {result.cluster}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _draw_times(axes: Axes, result: Result) -> None:
    times = [1000 * seconds for seconds in result.counted_seconds()]
    axes.hist(times, bins=min(40, max(8, len(times) // 10)), color="C0", alpha=0.7)
    for name, value, style in (
        ("mean", result.step_seconds.mean, "-"),
        ("median", result.step_seconds.p50, "--"),
        ("p95", result.step_seconds.p95, ":"),
    ):
        axes.axvline(1000 * value, color="black", linestyle=style, label=name)
    axes.set(xlabel="step (ms)", ylabel="steps", title="Times of the steps that count")
    axes.legend()


def _draw_links(axes: Axes, result: Result) -> None:
    links = sorted(result.links, key=lambda link: link.utilisation)[-_MOST_LINKS:]
    axes.barh([link.name for link in links], [100 * link.utilisation for link in links])
    axes.set(xlabel="used (% of what it can carry)", title="Links")
    if len(result.links) > len(links):
        axes.set_title(f"The {len(links)} busiest of {len(result.links)} links")
    axes.set_xlim(0, max(100, *axes.get_xlim()))  # without contention a port may carry more
    axes.grid(alpha=0.3, axis="x")
    axes.tick_params(axis="y", labelsize=7)
