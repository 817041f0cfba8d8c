"""How strategies look in every figure: a colour and a mark each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.typing import LineStyleType

# Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind people, too. Without
# yellow, which white paper swallows.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DIGITS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8))
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")
_DASHES: tuple[LineStyleType, ...] = ("-", "--", "-.")
GREY = "#8a8f98"
PALE = "#e4e6ea"
DPI = 130


@dataclass(frozen=True)
class Look:
    """Of one strategy."""

    colour: str
    mark: str
    line: LineStyleType


Looks = dict[str, Look]


def looks(strategies: Sequence[str]) -> Looks:
    """By the order in which the study names them; the seventh after one has another line."""
    return {
        name: Look(
            _COLOURS[i % len(_COLOURS)],
            _MARKS[i % len(_MARKS)],
            _DASHES[i // len(_COLOURS) % len(_DASHES)],
        )
        for i, name in enumerate(strategies)
    }


def handles(chosen: Looks, names: Sequence[str], line: bool = True) -> list[Line2D]:
    """For a legend, in the order of the study."""
    return [
        Line2D(
            [],
            [],
            color=look.colour,
            marker=look.mark,
            linestyle=look.line if line else "none",
            markersize=6,
            label=name,
        )
        for name, look in chosen.items()
        if name in names
    ]


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """At round numbers between two values, three of them also within a power of ten."""
    ticks: list[float] = []
    for digits in _DIGITS:
        ticks = [d * 10.0**e for e in range(-9, 13) for d in digits if low <= d * 10.0**e <= high]
        if len(ticks) >= 3:
            break
    else:
        ticks = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_locator(NullLocator())


def _short(value: float) -> str:
    """Of a round number: "0.002", "1,500", "2 million"."""
    if value >= 1e6:
        return f"{value / 1e6:,g} million"
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whose bytes depend on what is drawn alone."""
    with rc_context({"text.parse_math": False}):  # a "$" in a name is no formula
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def style() -> Any:
    """For a ``with`` statement or as a decorator: what all figures have in common."""
    return rc_context(
        {
            "text.parse_math": False,
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": PALE,
            "axes.axisbelow": True,
            "legend.frameon": False,
        }
    )
