"""Tables and plots of what runs measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path


def show(folder: Path) -> int:
    """Print the table of a finished demo and draw its curves again; returns the exit code."""
    from .files import io_text
    from .fit import print_table
    from .table import report_console, summary_table

    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        table = summary_table(summary)
        runs = [run["strategy"] for run in summary["runs"]]
    except FileNotFoundError:
        return _failed(
            f"{folder} has neither a demo's summary.json nor a study's study.json; "
            f"run `gearshift demo --out {folder}` or `gearshift study FILE --out {folder}` first"
        )
    except OSError as error:
        return _failed(f"{path}: {error.strerror or error}")
    except (ValueError, KeyError, TypeError) as error:
        return _failed(f"{path} is damaged, or of something else than a demo: {error!r}")
    print_table(report_console(), table)
    if importlib.util.find_spec("matplotlib") is None:
        return _failed("curves need matplotlib: pip install 'gearshift[demo]'")
    from .curves import draw_curves

    try:
        print(f"Curves: {draw_curves(folder, runs)}")
    except FileNotFoundError as error:
        return _failed(_missing(error, folder))
    except OSError as error:
        return _failed(f"the curves cannot be drawn: {io_text(error)}")
    except (ValueError, KeyError, TypeError) as error:
        return _failed(f"the curves cannot be drawn: {error}")
    return 0


def _missing(error: FileNotFoundError, folder: Path) -> str:
    return f"{error.filename} is missing; run `gearshift demo --out {folder}` first"


def _failed(message: str) -> int:
    print(f"gearshift report: {message}", file=sys.stderr)
    return 2
