"""The bookkeeping of `make validate`: what is compared, which half judges, how winners count."""

from __future__ import annotations

import tomllib

import pytest

from gearshift.sim.validation.cases import CELLS, Cell, Configuration, calibrating, configurations
from gearshift.sim.validation.cases import workload as make_workload
from gearshift.sim.validation.figures import percentile, step_seconds, summary
from gearshift.sim.validation.model import Parameters, cluster
from gearshift.sim.validation.winners import cell_winners


def test_halves_are_fixed_and_equal() -> None:
    rows = configurations(CELLS)
    half = calibrating(rows)
    assert len(rows) >= 40
    assert len({row.name for row in rows}) == len(rows)
    assert len(half) == len(rows) // 2
    assert half == calibrating(rows[::-1])
    for cell in CELLS:
        names = [row.name for row in configurations([cell])]
        assert abs(len(half.intersection(names)) - len(names) / 2) <= 0.5


@pytest.mark.parametrize("name", ["1 MB", "10 MB", "40 MB"])
def test_workloads_have_their_size(name: str) -> None:
    parameters = tomllib.loads(make_workload(name).text)["parameters"]
    elements = 0
    for parameter in parameters:
        count = 1
        for dimension in parameter["shape"]:
            count *= dimension
        elements += count
    assert 4 * elements == pytest.approx(1e6 * float(name.split()[0]), rel=0.03)


def test_cluster_of_a_cell() -> None:
    cell = Cell("x", (100, 200, 1000), "1 MB", ("ps:bsp",), servers=1, straggler=3)
    document = cluster(cell, Parameters()).document()
    assert [host["workers"] for host in document["hosts"]] == [1, 1, 0]
    assert [host["servers"] for host in document["hosts"]] == [0, 0, 1]
    assert document["stragglers"] == [{"host": "host-1", "factor": 3}]
    assert cell.worker_hosts == [0, 1]
    assert cell.server_hosts == [2]


def test_cluster_of_a_cell_at_sites() -> None:
    cell = Cell("x", (200,) * 6, "1 MB", ("all_reduce",), sites=2, uplink=50)
    document = cluster(cell, Parameters(efficiency=0.99)).document()
    assert [host["zone"] for host in document["hosts"]] == ["site-0"] * 3 + ["site-1"] * 3
    assert [zone["name"] for zone in document["zones"]] == ["site-0", "site-1"]
    for zone in document["zones"]:
        assert zone["bandwidth"] == pytest.approx(document["hosts"][0]["bandwidth"] / 4)


def test_figures() -> None:
    worker = {"begin": [0, 1, 3, 4], "end": [1, 3, 4, 9]}
    other = {"begin": [0, 1, 3, 4], "end": [1, 3, 6, 9]}
    assert step_seconds([worker, other], warmup=1) == 2  # of 2, 2 and 5
    assert percentile([1, 2, 3, 4, 5], 0.5) == 3
    assert summary([-0.02, 0.04])["mean_absolute_error"] == pytest.approx(0.03)


def test_winners() -> None:
    cell = Cell("x", (1,), "1 MB", ("a", "b", "c"))
    rows = [Configuration(cell, s) for s in cell.strategies]
    real = {"x/a": 1.0, "x/b": 1.02, "x/c": 2.0}
    near = cell_winners(rows, real, {"x/a": 1.1, "x/b": 1.0, "x/c": 2.0})
    assert (near["cells"], near["right"], near["pairs"], near["pairs_right"]) == (1, 1, 2, 2)
    wrong = cell_winners(rows, real, {"x/a": 1.1, "x/b": 1.0, "x/c": 0.9})
    assert (wrong["right"], wrong["pairs_right"]) == (0, 0)


def test_clear_winners_lead_all_others() -> None:
    cell = Cell("x", (1,), "1 MB", ("a", "b"))
    rows = [Configuration(cell, s) for s in cell.strategies]
    near = {"x/a": 1.0, "x/b": 1.04}
    clear = {"x/a": 1.0, "x/b": 1.06}
    assert cell_winners(rows, near, near)["clear"] == 0
    assert cell_winners(rows, clear, near)["clear_right"] == 1
    missed = cell_winners(rows, clear, {"x/a": 2.0, "x/b": 1.0})
    assert (missed["clear"], missed["clear_right"]) == (1, 0)
