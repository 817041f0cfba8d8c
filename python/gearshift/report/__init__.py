"""Tables and plots of what runs measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def show(folder: Path) -> int:
    """Print the table of a finished demo and draw its curves again; returns the exit code."""
    from .curves import draw_curves
    from .table import print_table, report_console, summary_table

    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        print_table(report_console(), summary_table(summary))
        curves = draw_curves(folder, [run["strategy"] for run in summary["runs"]])
    except FileNotFoundError as error:
        print(
            f"gearshift report: {error.filename} is missing; run `gearshift demo --out {folder}`"
            " first",
            file=sys.stderr,
        )
        return 2
    except (ValueError, KeyError, TypeError) as error:
        print(f"gearshift report: {path} is damaged: {error!r}", file=sys.stderr)
        return 2
    print(f"Curves: {curves}")
    return 0
