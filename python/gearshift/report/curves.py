"""Loss and accuracy over time, one line per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gearshift.demo.run_folder import read_metrics, read_result

_LABELS = {
    "all_reduce": "All-Reduce",
    "parameter_server": "Parameter Server (ASP)",
    "strategy_switch": "Strategy-Switch",
}


def draw_curves(folder: Path, runs: Sequence[str]) -> Path:
    """Draw the metrics of the runs in `folder` into curves.png."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for index, run in enumerate(runs):
        rows = read_metrics(folder / run, ("time", "step", "loss"))
        colour = f"C{index}"
        _draw_run(losses, accuracies, rows, _LABELS.get(run, run), colour)
        _mark_switches(losses, accuracies, folder / run, rows, colour)
    losses.set(xlabel="seconds", ylabel="training loss", title="Loss")
    accuracies.set(xlabel="seconds", ylabel="test accuracy (%)", title="Accuracy")
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        axes.legend()
    path = folder / "curves.png"
    figure.savefig(path, dpi=130)
    return path


def _draw_run(
    losses: Axes, accuracies: Axes, rows: list[dict[str, Any]], label: str, colour: str
) -> None:
    steps = [row for row in rows if "test_accuracy" not in row]
    epochs = [row for row in rows if "test_accuracy" in row]
    losses.plot(
        [row["time"] for row in steps], [row["loss"] for row in steps], color=colour, alpha=0.25
    )
    times = [row["time"] for row in epochs]
    losses.plot(times, [row["loss"] for row in epochs], color=colour, marker=".", label=label)
    accuracies.plot(
        times,
        [100 * row["test_accuracy"] for row in epochs],
        color=colour,
        marker=".",
        label=label,
    )


def _mark_switches(
    losses: Axes, accuracies: Axes, folder: Path, rows: list[dict[str, Any]], colour: str
) -> None:
    result = read_result(folder) or {}
    for switch in result.get("switches", []):
        after = [row["time"] for row in rows if row["step"] >= switch["step"]]
        if after:
            for axes in (losses, accuracies):
                axes.axvline(min(after), color=colour, linestyle=":", linewidth=1)
