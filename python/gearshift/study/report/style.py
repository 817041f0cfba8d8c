"""How strategies look in every figure: a colour and a mark each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

# Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind people, too. Without
# yellow, which white paper swallows.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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
