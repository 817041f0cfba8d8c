"""Time over size, for each setting that has several sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLUMNS = 3


def draw(summary: Mapping[str, Any], path: Path) -> Path | None:
    """Draw a summary; returns the path, None when there is nothing to draw."""
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for result in summary["cases"]:
        if result["bytes"] and result["sides"]:
            settings.setdefault(result["title"], []).append(result)
    if not settings:
        return None
    columns = min(_COLUMNS, len(settings))
    lines = -(-len(settings) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.8 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (title, results) in zip(grid.flat, settings.items(), strict=False):
        _draw_setting(axes, title, results)
    for axes in grid.flat[len(settings) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=120)
    return path


def _draw_setting(axes: Axes, title: str, results: list[Mapping[str, Any]]) -> None:
    names = dict.fromkeys(name for result in results for name in result["sides"])
    for name in names:
        chosen = [result for result in results if name in result["sides"]]
        seconds = [result["sides"][name]["seconds"] for result in chosen]
        medians = [s["median"] for s in seconds]
        spread = (
            [s["median"] - s["low"] for s in seconds],
            [s["high"] - s["median"] for s in seconds],
        )
        sizes = [result["bytes"] for result in chosen]
        axes.errorbar(sizes, medians, yerr=spread, marker="o", markersize=3, label=name)
    bounds = [
        (result["bytes"], result["bound"]["seconds"]) for result in results if "bound" in result
    ]
    if bounds:
        axes.plot(*zip(*bounds, strict=True), color="grey", linestyle=":", label="bound")
    axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel="seconds", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
