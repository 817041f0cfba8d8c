"""Whether the simulation names the fastest strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from .cases import Configuration

GAP = 0.05
"""Who leads by less is as fast as the other."""


def cell_winners(
    rows: Sequence[Configuration], real: Mapping[str, float], predicted: Mapping[str, float]
) -> dict[str, Any]:
    """In how many cells the winner is right, and in how many pairs of one cell the faster one.

    Of cells, those count in which some strategy is slower than the fastest by more than
    :data:`GAP`; who is within the gap of the fastest is as right an answer. Clear are those in
    which the fastest leads every other by the gap. Of pairs, those that differ by more.
    """
    cells: dict[str, list[str]] = {}
    for row in rows:
        cells.setdefault(row.cell.name, []).append(row.name)
    wrong_cells, wrong_pairs, counted, pairs = [], [], 0, 0
    clear, clear_right = 0, 0
    for cell, names in cells.items():
        ordered = sorted(names, key=real.__getitem__)
        if real[ordered[-1]] / real[ordered[0]] - 1 > GAP:
            counted += 1
            said = min(names, key=predicted.__getitem__)
            if real[ordered[1]] / real[ordered[0]] - 1 > GAP:
                clear += 1
                clear_right += said == ordered[0]
            if real[said] / real[ordered[0]] - 1 > GAP:
                wrong_cells.append({"cell": cell, "measured": ordered[0], "simulated": said})
        for fast, slow in combinations(ordered, 2):
            if real[slow] / real[fast] - 1 > GAP:
                pairs += 1
                if predicted[slow] <= predicted[fast]:
                    wrong_pairs.append([fast, slow])
    return {
        "cells": counted,
        "right": counted - len(wrong_cells),
        "wrong": wrong_cells,
        "clear": clear,
        "clear_right": clear_right,
        "pairs": pairs,
        "pairs_right": pairs - len(wrong_pairs),
        "pairs_wrong": wrong_pairs,
    }
