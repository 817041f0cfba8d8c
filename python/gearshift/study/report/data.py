"""What the folder of a study holds, in the order of its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import Error
from ..cell import MEASURED, Cell, Clock
from ..run import Run
from ..store import Store


@dataclass(frozen=True)
class StudyData:
    """Facts of a study and the runs that there are."""

    facts: Mapping[str, Any]
    runs: tuple[Run, ...]
    """Those that the study's file asks for, in its order."""
    missing: tuple[Cell, ...]
    """Cells without a run."""
    commits: tuple[str, ...] = ()
    """Of gearshift, that the runs are of; in the order of the runs."""
    foreign: int = 0
    """Runs in the folder that the file no longer asks for."""

    @property
    def use_cases(self) -> list[Mapping[str, Any]]:
        return list(self.facts["use_cases"])

    @property
    def clusters(self) -> list[Mapping[str, Any]]:
        return list(self.facts["clusters"])

    @property
    def strategies(self) -> list[str]:
        return list(self.facts["strategies"])

    @property
    def clocks(self) -> list[Clock]:
        """Those of which there is an outcome, the simulated one first."""
        found = {run.cell.clock for run in self.runs if run.outcome is not None}
        return sorted(found, key=lambda clock: clock != "simulated")

    @property
    def asked(self) -> int:
        """Cells of the study."""
        return len(self.runs) + len(self.missing)

    @property
    def skipped(self) -> Mapping[str, str]:
        """Clusters that could not be measured on the study's machine, and why."""
        return dict(self.facts.get("skipped", {}))

    def failed(self) -> list[Run]:
        """Runs that ended with an error."""
        return [run for run in self.runs if run.outcome is None]

    def select(self, **fields: Any) -> list[Run]:
        """The runs whose cells have these values."""
        return [
            run
            for run in self.runs
            if all(getattr(run.cell, name) == value for name, value in fields.items())
        ]


def load(folder: Path) -> StudyData:
    """Read the folder of a study; cells that were run when it said something else are left out.

    Raises:
        Error: when it holds no study, a file is damaged, or no cell was run.
    """
    store = Store(folder)
    facts = store.facts()
    try:
        targets = {case["name"]: float(case["target"]) for case in facts["use_cases"]}
        cells = [Cell(**fields) for fields in facts["cells"]]
    except (KeyError, TypeError, ValueError) as error:
        raise Error(
            f"{folder / 'study.json'} is damaged, or of something else than a study: {error!r}",
            code="io",
        ) from error
    recipes = facts.get("recipes", {})
    found = {
        done.cell: done
        for done in store.load_all()
        if done.recipe == recipes.get(done.cell.slug, done.recipe)
    }
    cells = [cell for cell in cells if cell in found or not _is_skipped(facts, cell)]
    runs = [Run.of(found[cell], targets[cell.use_case]) for cell in cells if cell in found]
    missing = tuple(cell for cell in cells if cell not in found)
    if not any(run.outcome is not None for run in runs):
        raise Error(_nothing(folder, runs, len(cells)))
    commits = dict.fromkeys(found[cell].commit for cell in cells if cell in found)
    known = tuple(commit for commit in commits if commit is not None)
    return StudyData(facts, tuple(runs), missing, known, len(found) - len(runs))


def _is_skipped(facts: Mapping[str, Any], cell: Cell) -> bool:
    """Whether it could not be measured; what an earlier run measured elsewhere is there."""
    return cell.clock == MEASURED and cell.cluster in facts.get("skipped", {})


def _nothing(folder: Path, runs: list[Run], cells: int) -> str:
    if not runs:
        return (
            f"{folder}: none of the {cells} cells of this study has been run: there is nothing to "
            "report. `gearshift study` runs them"
        )
    return (
        f"{folder}: all {len(runs)} cells of this study that were run have failed: there is "
        f"nothing to report. The first: {runs[0].cell.label}: {runs[0].error}"
    )
