"""Runs the cells of a study, keeps what each found, and leaves out those that are done."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..bench.interrupts import exit_code
from ..errors import Error
from ..sim.display import Display
from ..sim.processes import Pool
from . import measured
from .cell import MEASURED, SIMULATED, Cell, Done, Outcome, Study
from .rates import task_file
from .recipe import recipe
from .search import cells_of
from .simulated import simulate_cells, workers_of
from .store import Store

TASKS = "tasks"
_PACKAGES = ("gearshift", "torch", "numpy")

Wanted = Callable[[Cell], bool]
"""Whether a cell is to be run."""


@dataclass
class Found:
    """What a run came to."""

    done: int = 0
    """Cells that were run now."""
    kept: int = 0
    """Those that an earlier run had done."""
    of_others: int = 0
    """Of these those that another commit of gearshift ran."""
    failures: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Clusters that cannot be measured here, and why."""
    interrupted: int = 0
    """The exit code of what ended it early."""


class Runner:
    """Runs a study in a folder that nobody else writes to; `command` is what runs all of it."""

    def __init__(
        self,
        study: Study,
        folder: Path,
        command: Sequence[str],
        pool: Pool,
        display: Display,
        note: Callable[[str], None],
    ) -> None:
        self._study = study
        self._store = Store(folder)
        self._tasks = folder / TASKS
        self._command = command
        self._pool = pool
        self._display = display
        self._note = note
        self._run_now: dict[Cell, Done] = {}
        self._run_before: dict[Cell, Done | None] = {}
        self._looked_at: set[str] = set()
        """Clusters of which this run would measure cells."""
        self._commit: str | None = None
        self._reasons: dict[str, str] = {}
        """Why some of them cannot be measured."""
        self.found = Found()
        self._parts = 0
        """Of what is simulated: what is found in one decides which cells the next has."""

    def run(self, wanted: Wanted, again: bool) -> Found:
        """Run cells, those that are to be measured first, while nothing else runs.

        Where learning rates are searched, what cells found says which ones follow.

        Ctrl-C ends it, and what is raised as Ctrl-C is; what is done is kept.

        Args:
            wanted: which of the study's.
            again: those, too, that are done.

        Raises:
            OSError: when the folder cannot be written.
        """
        facts = machine_facts() | {"command": shlex.join(self._command)}
        self._commit = facts["commit"]
        self._reasons = self._unmeasurable(wanted)
        kept: set[Cell] = set()
        try:
            while True:
                asked = cells_of(self._study, lambda cell: self._find(cell, wanted, again))
                chosen = list(filter(wanted, asked))
                missing = [cell for cell in chosen if self._find(cell, wanted, again) is None]
                todo = [cell for cell in missing if not self._is_skipped(cell)]
                self._save_facts(facts)
                kept = set(chosen) - set(missing) - set(self._run_now)
                if not todo:
                    break
                self._measure([cell for cell in todo if cell.clock == MEASURED])
                self._simulate([cell for cell in todo if cell.clock == SIMULATED])
        except KeyboardInterrupt as interrupt:
            self.found.interrupted = exit_code(interrupt)
            self._save_facts(facts)
        self.found.kept = len(kept)
        self.found.of_others = sum(map(self._is_of_another_commit, kept))
        return self.found

    def _save_facts(self, facts: dict[str, Any]) -> None:
        """With the cells that the study asks for by what the folder has, which is reported: also
        what is to be run again, until it is, and what failed."""
        asked = cells_of(self._study, self._known)
        cells = {
            "skipped": self._skipped(),
            "cells": [asdict(cell) for cell in asked],
            "recipes": {cell.slug: recipe(self._study, cell) for cell in asked},
        }
        self._store.save_facts(self._study, facts | cells)

    def _find(self, cell: Cell, wanted: Wanted, again: bool) -> Done | None:
        """What a cell found, now or in an earlier run; None: it is to be run."""
        if cell in self._run_now:
            return self._run_now[cell]
        before = None if again and wanted(cell) else self._known(cell)
        return None if before is None or before.outcome is None else before

    def _known(self, cell: Cell) -> Done | None:
        """What came of a cell, now or in an earlier run."""
        if cell in self._run_now:
            return self._run_now[cell]
        if cell not in self._run_before:
            self._run_before[cell] = self._load(cell)
        return self._run_before[cell]

    def _is_of_another_commit(self, cell: Cell) -> bool:
        done = self._known(cell)
        return (
            done is not None
            and None not in (done.commit, self._commit)
            and (done.commit != self._commit)
        )

    def _load(self, cell: Cell) -> Done | None:
        try:
            before = self._store.load(cell)
        except Error as error:
            self._note(f"{error}; this cell is run again")
            return None
        known = before is not None and before.recipe == recipe(self._study, cell)
        return before if known else None

    def _unmeasurable(self, wanted: Wanted) -> dict[str, str]:
        """Clusters of cells that are wanted and cannot be measured here, and why."""
        cells = filter(wanted, self._study.cells())
        self._looked_at = {cell.cluster for cell in cells if cell.clock == MEASURED}
        clusters = [cluster for cluster in self._study.clusters if cluster.name in self._looked_at]
        reasons = {cluster.name: measured.why_not(cluster) for cluster in clusters}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def _skipped(self) -> dict[str, str]:
        """Clusters that are not measured, and why: also those of an earlier run, unless this one
        has found that they can be, so that one that only simulates forgets none."""
        measured = {c.name for c in self._study.clusters if MEASURED in c.clocks}
        before = {
            name: self._reasons.get(name, reason)
            for name, reason in self._store.skipped().items()
            if name in measured and (name in self._reasons or name not in self._looked_at)
        }
        return before | self.found.skipped

    def _is_skipped(self, cell: Cell) -> bool:
        """Whether a cell that is to be run cannot be, which is told of its cluster once."""
        if cell.clock == SIMULATED or cell.cluster not in self._reasons:
            return False
        if cell.cluster not in self.found.skipped:
            reason = self.found.skipped[cell.cluster] = self._reasons[cell.cluster]
            self._note(f"{cell.cluster} is not measured: {reason}")
        return True

    def _measure(self, cells: Sequence[Cell]) -> None:
        if not cells:
            return
        self._display.begin("measuring", len(cells))
        for cell in cells:
            case, _ = self._study.cases_of(cell)
            task = task_file(self._tasks, case.task, cell.rate, case.name)
            try:
                found: Outcome | Error = measured.measure(self._study, cell, task)
            except Error as error:
                found = error
            self._keep(cell, found)
            self._display.advance(1)

    def _simulate(self, cells: Sequence[Cell]) -> None:
        if not cells:
            return
        self._parts += 1
        searches = any(self._study.cases_of(cell)[0].searched for cell in cells)
        what = f"simulating, part {self._parts}" if searches or self._parts > 1 else "simulating"
        self._display.begin(what, sum(steps_of(self._study, cell) for cell in cells))
        simulate_cells(
            self._study,
            cells,
            self._tasks,
            self._pool,
            lambda number, found: self._keep(cells[number], found),
            self._display.advance,
        )

    def _keep(self, cell: Cell, found: Outcome | Error) -> None:
        failed = isinstance(found, Error)
        if isinstance(found, Error):
            done = Done(cell, None, str(found), recipe(self._study, cell), self._commit)
            self.found.failures.append(f"{cell.label}: {found}")
            self._note(self.found.failures[-1])
        else:
            done = Done(cell, found, None, recipe(self._study, cell), self._commit)
        self._run_now[cell] = done
        self._store.save(done)
        self.found.done += not failed


def steps_of(study: Study, cell: Cell) -> int:
    """Steps of each worker of a cell."""
    case, cluster = study.cases_of(cell)
    return case.steps(workers_of(cluster))


def machine_facts() -> dict[str, Any]:
    """Where the study runs: ``machine``, ``versions``, and ``commit`` in a checkout."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return {
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
        },
        "versions": versions,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _commit() -> str | None:
    """Of gearshift, if it runs in a checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
