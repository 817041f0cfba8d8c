"""A simulation against a real job on two hosts, which are network namespaces."""

from __future__ import annotations

import pytest

from gearshift.bench.hosts import NamespaceError
from gearshift.sim.processes import Pool
from gearshift.sim.validation.cases import Cell, Configuration
from gearshift.sim.validation.measure import measure
from gearshift.sim.validation.model import Parameters, predict

pytest.importorskip("gearshift._sim")

STRATEGIES = ("all_reduce:ring", "ps:bsp(shards=1)")
CELL = Cell("2x50", (50,) * 2, "1 MB", STRATEGIES)
TOLERANCE = 0.25
"""Wide, since other programs may run here; `make validate` is the precise comparison."""


@pytest.mark.netns
def test_step_times_are_near_those_of_a_real_job() -> None:
    try:
        measured = measure(CELL)
    except NamespaceError as error:
        pytest.skip(f"no hosts can be made here: {error}")
    rows = [Configuration(CELL, strategy) for strategy in STRATEGIES]
    simulated = predict(rows, Parameters(), Pool())
    for row in rows:
        real = measured[row.strategy]["seconds"]
        assert simulated[row.name] == pytest.approx(real, rel=TOLERANCE), row.name
