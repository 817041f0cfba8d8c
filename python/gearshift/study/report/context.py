"""What all parts of the report share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cell import Clock
from .analysis import Combination
from .data import StudyData
from .document import Document, plain
from .style import Looks


@dataclass
class Context:
    """The study, what was found, and the document that grows."""

    data: StudyData
    found: list[Combination]
    looks: Looks
    figures: Path
    """The folder of the figures."""
    document: Document = field(default_factory=Document)

    @property
    def use_cases(self) -> dict[str, str]:
        """Titles by name, of those with an outcome."""
        there = {combination.use_case for combination in self.found}
        return {c["name"]: c["title"] for c in self.data.use_cases if c["name"] in there}

    @property
    def clusters(self) -> dict[str, str]:
        """Titles by name, of those with an outcome."""
        there = {combination.cluster for combination in self.found}
        return {c["name"]: c["title"] for c in self.data.clusters if c["name"] in there}

    @property
    def several_rates(self) -> bool:
        """Whether strategies were tried at more than one learning rate."""
        return any(len(self.rates(case["name"])) > 1 for case in self.data.use_cases)

    def case(self, name: str) -> Mapping[str, Any]:
        """The facts of a use case."""
        return next(case for case in self.data.use_cases if case["name"] == name)

    def rates(self, use_case: str) -> list[float]:
        """Factors of the learning rate that were tried, or are to be."""
        if not self.searched(use_case):
            return [float(rate) for rate in self.case(use_case)["rates"]]
        return sorted({run.cell.rate for run in self.data.select(use_case=use_case)})

    def searched(self, use_case: str) -> bool:
        """Whether each strategy's learning rate was searched."""
        return bool(self.case(use_case).get("searched"))

    def of(
        self, clock: Clock | None = None, use_case: str | None = None, cluster: str | None = None
    ) -> list[Combination]:
        """The combinations that have these."""
        return [
            c
            for c in self.found
            if (clock is None or c.clock == clock)
            and (use_case is None or c.use_case == use_case)
            and (cluster is None or c.cluster == cluster)
        ]

    def where(self, combination: Combination, clock: bool = True) -> str:
        """Titles of use case and cluster, as Markdown; the clock where there are two."""
        text = (
            f"{plain(self.use_cases[combination.use_case])},"
            f" {plain(self.clusters[combination.cluster])}"
        )
        return text + (f" ({combination.clock})" if clock and len(self.data.clocks) > 1 else "")
