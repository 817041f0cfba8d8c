"""All files of a report, in order."""

from __future__ import annotations

import os
from pathlib import Path

from . import HTML, MARKDOWN
from .analysis import combinations
from .answer import write_answer
from .clocks_part import write_clocks
from .context import Context
from .data import load
from .document import plain
from .frames import (
    CURVES,
    STRATEGIES,
    cell_columns,
    cell_rows,
    curve_rows,
    strategy_rows,
)  # fmt: skip
from .frames import (
    write as write_table,
)
from .html import page
from .method_part import default_title, write_cells, write_method
from .rates_part import write_rates
from .stale_part import write_asynchrony, write_switches
from .style import looks
from .use_cases_part import write_use_cases
from .winners_part import write_winners

FIGURES = "figures"


def write(folder: Path) -> Path:
    """See :func:`gearshift.study.report.write_report`."""
    data = load(folder)
    found = combinations(data)
    write_table(folder, "cells", cell_rows(data), cell_columns())
    write_table(folder, "curves", curve_rows(data), CURVES)
    write_table(folder, "strategies", strategy_rows(found), STRATEGIES)
    figures = folder / FIGURES
    figures.mkdir(exist_ok=True)
    context = Context(data, found, looks(data.strategies), figures)
    _write_text(context, folder)
    for path in figures.glob("*.png"):
        if path.name not in context.document.figures:  # of an earlier report
            path.unlink()
    # Names of files, in the command, may hold bytes that are no text.
    text = context.document.text().encode(errors="replace").decode()
    _whole(folder / MARKDOWN, text)
    _whole(folder / HTML, page(text, folder))
    return folder / HTML


def _write_text(context: Context, folder: Path) -> None:
    facts, document = context.data.facts, context.document
    document.heading(1, plain(facts.get("title") or default_title(folder)))
    if facts.get("question"):
        document.paragraph(f"*{plain(facts['question'])}*")
    write_answer(context)
    write_winners(context)
    write_use_cases(context)
    write_asynchrony(context)
    write_switches(context)
    write_rates(context)
    write_clocks(context)
    write_cells(context)
    write_method(context)


def _whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees it whole, or the one before."""
    fresh = path.with_name(f"{path.name}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    except OSError:  # a full disk
        fresh.unlink(missing_ok=True)
        raise
