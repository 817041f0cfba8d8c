"""What determines the outcome of a cell, as a digest: cells that are done need not be run again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from .. import __version__
from ..sim import task as tasks
from .cell import Cell, Study


def recipe(study: Study, cell: Cell) -> str:
    """The same for two runs that must have the same outcome, but for what is measured."""
    case, cluster = study.cases_of(cell)
    parts = (
        cell.strategy,
        cell.rate,
        cell.seed,
        cell.clock,
        case.samples,
        case.evaluations,
        case.task,
        _source(case.task),
        case.workload.text,
        cluster.source.text,
        __version__,
        importlib.metadata.version("torch"),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@cache
def _source(task: str) -> str:
    """The text of the task's file; what it imports is not looked at."""
    where, _ = tasks.split(task)
    if not where.endswith(".py"):
        found = find_spec(where)
        where = (found.origin if found is not None else None) or ""
    path = Path(where)
    return path.read_text(encoding="utf-8") if path.is_file() else ""
