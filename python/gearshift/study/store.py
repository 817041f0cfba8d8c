"""The folder of a study: what its cells found, a file each, so that a run can be interrupted.

study.toml            the file that was run
study.json            use cases, clusters, strategies, machine, versions, the command
cells/<slug>.json     one cell: its fields, its recipe, and outcome or error
workloads/<name>.toml, clusters/<name>.toml   as they were run
report.md, report.html, figures/, *.parquet, *.csv   made of these anew by
                      ``gearshift report FOLDER``
"""

from __future__ import annotations

import codecs
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import Error
from ..report.files import write_json
from ..sim.inputs import Source
from .cell import Cell, Done, Outcome, Study

STUDY = "study.toml"
FACTS = "study.json"
CELLS = "cells"


class Store:
    """Reads and writes the folder of a study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_facts(self, study: Study, more: dict[str, Any]) -> None:
        """Write what the study is, before its first cell is run."""
        (self.folder / CELLS).mkdir(parents=True, exist_ok=True)
        _copy(study.text, self.folder / STUDY)
        for path, source in self._sources(study).items():
            path.parent.mkdir(exist_ok=True)
            _copy(source.text, path)
        write_json(self.folder / FACTS, facts_of(study) | more)

    def overwritten(self, study: Study) -> Path | None:
        """A file of the user's in whose place :meth:`save_facts` would write another one: another
        study, or what this one reads and changes (``set`` of a cluster)."""
        mine = self.folder / STUDY
        if mine.exists() and not (self.folder / FACTS).exists() and not _holds(mine, study.text):
            return mine
        copies = self._sources(study)
        read = [source.path for source in copies.values() if source.path is not None]
        for copy, source in copies.items():
            if copy.exists() and any(map(copy.samefile, read)) and not _holds(copy, source.text):
                return copy
        return None

    def _sources(self, study: Study) -> dict[Path, Source]:
        """The files of workloads and clusters, by where they are written."""
        workloads = {f"workloads/{case.name}.toml": case.workload for case in study.use_cases}
        clusters = {f"clusters/{case.name}.toml": case.source for case in study.clusters}
        return {self.folder / name: source for name, source in (workloads | clusters).items()}

    def facts(self) -> dict[str, Any]:
        """What :meth:`save_facts` wrote.

        Raises:
            Error: when the folder holds no study.
        """
        return _read(self.folder / FACTS)

    def skipped(self) -> dict[str, str]:
        """Clusters that an earlier run could not measure, and why; none where nothing was run."""
        try:
            found = self.facts().get("skipped", {})
        except Error:
            return {}  # no study yet, or a damaged file, which is written anew
        return dict(found) if isinstance(found, dict) else {}

    def save(self, done: Done) -> None:
        """Write what a cell found; a reader sees the file whole, or not at all."""
        document = {
            "cell": asdict(done.cell),
            "recipe": done.recipe,
            "commit": done.commit,
            "error": done.error,
            "outcome": None if done.outcome is None else done.outcome.to_dict(),
        }
        write_json(self._path(done.cell), document)

    def load(self, cell: Cell) -> Done | None:
        """What a cell found earlier, if it did."""
        path = self._path(cell)
        return _done(path) if path.exists() else None

    def load_all(self) -> list[Done]:
        """Of all cells that were run, in the order of their file names.

        Raises:
            Error: naming a file that cannot be read.
        """
        return [_done(path) for path in sorted((self.folder / CELLS).glob("*.json"))]

    def _path(self, cell: Cell) -> Path:
        return self.folder / CELLS / f"{cell.slug}.json"


def facts_of(study: Study) -> dict[str, Any]:
    """What a report needs to know of the study itself."""
    return {
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "strategies": list(study.strategies),
        "seeds": list(study.seeds),
        "cells": [asdict(cell) for cell in study.cells()],
        "use_cases": [
            {
                "name": case.name,
                "title": case.title,
                "task": case.task,
                "samples": case.samples,
                "batch_size": case.batch_size,
                "metric": case.metric,
                "target": case.target,
                "rates": list(case.rates),
                "searched": case.searched,
                "clocks": list(case.clocks),
                "parameters": _count(case.workload.document()),
                **_times(case.workload.document()),
            }
            for case in study.use_cases
        ],
        "clusters": [
            {"name": case.name, "title": case.title, "clocks": list(case.clocks)}
            for case in study.clusters
        ],
    }


def _copy(text: str, path: Path) -> None:
    """Write a file that does not say the same already: it may be the one that was read."""
    if not path.exists() or not _holds(path, text):
        path.write_text(text, encoding="utf-8")


def _holds(path: Path, text: str) -> bool:
    """Whether a file says the same, whatever its lines end in."""
    found = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    return found.replace(b"\r\n", b"\n") == text.encode()


def _count(workload: dict[str, Any]) -> int:
    total = 0
    for parameter in workload["parameters"]:
        count = 1
        for extent in parameter["shape"]:
            count *= extent
        total += count
    return total


def _times(workload: dict[str, Any]) -> dict[str, Any]:
    return {key: workload.get(key, 0) for key in ("forward", "backward", "optimizer")}


def _done(path: Path) -> Done:
    document = _read(path)
    try:
        outcome = document["outcome"]
        return Done(
            Cell(**document["cell"]),
            None if outcome is None else Outcome.from_dict(outcome),
            document["error"],
            document["recipe"],
            document.get("commit"),
        )
    except (KeyError, TypeError) as error:
        raise Error(f"{path}: holds no cell of a study: {error}", code="io") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Error(f"{path}: {error.strerror or error}", code="io") from error
    except ValueError as error:
        raise Error(f"{path}: no JSON: {error}", code="io") from error
    if not isinstance(document, dict):
        raise Error(f"{path}: holds no object", code="io")
    return document
