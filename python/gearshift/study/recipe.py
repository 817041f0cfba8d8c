"""What determines the outcome of a cell, as a digest: cells that are done need not be run again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from functools import cache

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
    return tasks.source(task)
