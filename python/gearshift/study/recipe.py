"""What determines the outcome of a cell, as a digest: cells that are done need not be run again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from functools import cache

from .. import __version__
from ..sim import task as tasks
from .cell import Cell, Study

_DATA = tuple(f"GEARSHIFT_{name}" for name in ("BIBLE", "DIGITS", "FASHION_MNIST", "MOVIELENS"))
"""Variables that name the data of tasks, where it is not that of a package."""


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
        *(f"{name}={os.environ[name]}" for name in _DATA if os.environ.get(name)),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@cache
def _source(task: str) -> str:
    """The text of the task's file; what it imports is not looked at."""
    return tasks.source(task)
