"""Who wins where, and where that changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gearshift.sim.axes import Axis
from gearshift.sim.crossovers import between, crossing, crossovers
from gearshift.sim.table import sweep_table
from gearshift.sim.winners import Grid, Leaders, Winner, best


def grid_of(
    axes: list[Axis], times: dict[str, Callable[..., float]], missing: set[tuple] = frozenset()
) -> Grid:
    """A grid from the time per sample of each strategy as a function of the axes' values."""
    grid = Grid(axes)
    for cell in grid.cells():
        for name, time in times.items():
            if (cell, name) not in missing:
                grid.add(cell, name, 1 / time(*grid.point(cell).values()))
    return grid


BANDWIDTH = Axis("bandwidth", (1e6, 1e7, 1e8))
WORKERS = Axis("workers", (2, 4, 8))


def test_the_winner_and_its_margin() -> None:
    assert best({"a": 10.0, "b": 12.0, "c": 11.0}) == Winner("b", 12.0, pytest.approx(12 / 11 - 1))
    assert best({"a": 10.0}) == Winner("a", 10.0, None)
    # What differs by less than 0.1 % is equal: of two names for the same the first one wins.
    assert best({"a": 10.0, "b": 10.009}) == Winner("a", 10.0, 0.0)
    assert best({"a": 10.0, "b": 10.02}).strategy == "b"


def test_power_laws_cross_exactly_where_they_do() -> None:
    # 1/b and 3e-4/sqrt(b) are straight lines in logarithms: equal at sqrt(b) = 1/3e-4.
    times = {"a": lambda b: 3e-4 / math.sqrt(b), "b": lambda b: 1 / b}
    (found,) = crossovers(grid_of([BANDWIDTH], times))
    assert found.value == pytest.approx((1 / 3e-4) ** 2)
    assert found.between == ("a", "b")
    assert found.position == pytest.approx(1 + math.log10(found.value / 1e7))


def test_a_crossover_by_the_formula() -> None:
    part = crossing([1.0, 2.0], [3.0, 1.5])
    assert part == pytest.approx(math.log(2) / (math.log(2) + math.log(2)))
    assert between(1e6, 1e8, part) == pytest.approx(1e7)
    assert between(0.0, 4.0, 0.25) == pytest.approx(1.0)
    assert crossing([1.0, 1.0], [1.0, 1.0]) == 0.5


def test_each_pair_of_neighbours_is_looked_at() -> None:
    times = {"a": lambda b, n: float(n), "b": lambda b, n: 6e7 / b}
    found = {(c.axis, c.cell): c.value for c in crossovers(grid_of([BANDWIDTH, WORKERS], times))}
    # b wins everywhere at 1e8, and at 1e7 with 8 workers; both are straight lines in logarithms.
    assert found == {
        ("bandwidth", (1, 0)): pytest.approx(3e7),
        ("bandwidth", (1, 1)): pytest.approx(1.5e7),
        ("bandwidth", (0, 2)): pytest.approx(7.5e6),
        ("workers", (1, 1)): pytest.approx(6),
    }


def test_without_both_strategies_on_both_sides_there_is_no_crossover() -> None:
    times = {"a": lambda b: 1.0, "b": lambda b: 2e7 / b}
    assert len(crossovers(grid_of([BANDWIDTH], times))) == 1
    assert crossovers(grid_of([BANDWIDTH], times, {((2,), "a")})) == []
    assert crossovers(grid_of([Axis("zone", ("x", "y", "z"))], {
        "a": lambda z: 1.0, "b": lambda z: {"x": 2.0, "y": 0.5, "z": 2.0}[z]
    })) == []  # fmt: skip


def test_a_third_strategy_that_wins_in_between_is_seen() -> None:
    # Straight lines in logarithms: c is the fastest of none of the cells, and between 2e7 and 5e7.
    axis = Axis("bandwidth", (1e7, 1e8))
    times = {
        "a": lambda b: 1.0,
        "b": lambda b: (3e7 / b) ** 2,
        "c": lambda b: (2e7 / b) ** 0.5,
        "d": lambda b: (2.9e7 / b) ** 0.1,  # never ahead of c
    }
    grid = grid_of([axis], times)
    found = crossovers(grid)
    assert [c.between for c in found] == [("a", "c"), ("c", "b")]
    assert [c.value for c in found] == [
        pytest.approx(2e7),
        pytest.approx((3e7**2 / 2e7**0.5) ** (1 / 1.5)),
    ]
    for crossover in found:  # both are equally fast there, and nobody is faster
        there = sorted(time(crossover.value) for time in times.values())
        assert there[0] == pytest.approx(there[1])
    assert [c.cell for c in found] == [(0,), (0,)]


def test_what_is_equal_all_the_way_is_no_third_strategy() -> None:
    axis = Axis("bandwidth", (1e7, 1e8))
    times = {"a": lambda b: 1.0, "b": lambda b: (3e7 / b) ** 2, "same": lambda b: 0.9995}
    (found,) = crossovers(grid_of([axis], times))
    assert found.between == ("a", "b")
    # In one of the cells it failed: nobody knows how fast it is in between.
    times["c"] = lambda b: (2e7 / b) ** 0.5
    assert len(crossovers(grid_of([axis], times))) == 2
    assert len(crossovers(grid_of([axis], times, {((1,), "c")}))) == 1


def line(error: float, **throughputs: list[float]) -> Grid:
    """A sweep over 1, 2, 4 …: the throughput of each strategy; 0: it failed."""
    count = len(next(iter(throughputs.values())))
    grid = Grid([Axis("bandwidth", tuple(2.0**i for i in range(count)))], error=error)
    for name, values in throughputs.items():
        for i, value in enumerate(values):
            if value > 0:
                grid.add((i,), name, value)
    return grid


def test_who_leads_by_less_than_the_margin_of_error_takes_over_from_nobody() -> None:
    near = {"a": [100.0, 100.0, 100.0], "b": [99.0, 101.0, 99.5]}
    assert [c.between for c in crossovers(line(0.0, **near))] == [("a", "b"), ("b", "a")]
    assert crossovers(line(0.02, **near)) == []
    # Level at first, and then b is faster: it was never slower, as far as can be told.
    assert crossovers(line(0.02, a=[100.0, 100.0], b=[99.0, 200.0])) == []
    assert crossovers(line(0.02, a=[100.0, 100.0], b=[50.0, 101.0])) == []
    # Estimated steps add to the margin, of the faster one.
    grid = line(0.0, a=[100.0, 100.0], b=[80.0, 120.0])
    assert len(crossovers(grid)) == 1
    grid.add((1,), "b", 120.0, 0.3)
    assert crossovers(grid) == []


def test_what_is_level_in_between_hides_no_crossover() -> None:
    # The times cross between the first and the second cell; only in the third one it is sure.
    sure_late = line(0.02, a=[100.0, 100.0, 100.0], b=[50.0, 101.0, 200.0])
    (found,) = crossovers(sure_late)
    assert (found.between, found.cell) == (("a", "b"), (0,))
    assert found.position == pytest.approx(math.log(2) / (math.log(2) + math.log(1.01)))
    # To and fro within the margin is one change, where b gets ahead first.
    to_and_fro = line(0.02, a=[100.0] * 4, b=[50.0, 101.0, 99.0, 200.0])
    assert [(c.between, c.cell) for c in crossovers(to_and_fro)] == [(("a", "b"), (0,))]
    # A third strategy that is level with both comes between them nowhere.
    third = line(0.02, a=[100.0, 100.0, 100.0], b=[50.0, 100.0, 200.0], c=[40.0, 101.0, 40.0])
    assert [(c.between, c.position) for c in crossovers(third)] == [(("a", "b"), 1.0)]
    # Where one of them failed nobody knows what it would have done.
    assert crossovers(line(0.02, a=[100.0, 0.0, 100.0], b=[50.0, 101.0, 200.0])) == []
    assert crossovers(line(0.02, a=[100.0, 0.0, 100.0], b=[50.0, 0.0, 200.0])) == []


def test_the_leaders_of_a_cell_cannot_be_told_from_each_other() -> None:
    grid = line(0.02, a=[100.0, 0.0, 100.0, 100.0], b=[101.0, 0.0, 90.0, 0.0], c=[50.0, 0, 89.0, 0])
    found = grid.leaders((0,))
    assert found == Leaders(("a", "b"), 0.02, pytest.approx(101 / 50 - 1))
    assert grid.leaders((1,)) is None
    assert grid.leaders((2,)) == Leaders(("a",), 0.02, pytest.approx(100 / 90 - 1))
    assert grid.leaders((3,)) == Leaders(("a",), 0.02, None)
    table = sweep_table(grid, ["a", "b", "c"])
    assert list(table.columns[-2].cells) == ["a and b", "-", "a", "a"]
    assert list(table.columns[-1].cells) == ["102.0 %", "-", "11.1 %", "-"]
    level = sweep_table(line(0.02, a=[100.0], b=[101.0]), ["a", "b"])
    assert [list(c.cells) for c in level.columns[1:]] == [
        ["[bold]100[/bold]"], ["[bold]101[/bold]"], ["no difference"], ["-"]
    ]  # fmt: skip


def test_a_map_says_where_there_is_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from gearshift.sim import heatmap

    figures: list[Any] = []
    monkeypatch.setattr(heatmap.Figure, "savefig", lambda self, *_, **__: figures.append(self))
    grid = line(0.02, a=[100.0, 100.0, 100.0], b=[99.0, 101.0, 50.0], c=[50.0, 101.5, 40.0])
    heatmap.draw(grid, crossovers(grid), tmp_path / "map.png")
    (figure,) = figures
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [
        "100/s\n2 level,\n+100.0 %",
        "102/s\nno difference",
        "100/s\n+100.0 %",
    ]
    assert [patch.get_x() for patch in axes.patches if patch.get_hatch()] == [-0.5, 0.5]
    assert list(axes.lines) == []
    (legend,) = figure.legends
    assert legend.get_texts()[-1].get_text() == "level: within the margin of error"


def test_a_map_is_drawn_over_two_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from gearshift.sim.heatmap import draw

    times = {"a": lambda b, z, n: 1.0 * n, "b": lambda b, z, n: 2e7 / b * 4}
    grid = grid_of([BANDWIDTH, Axis("zone", ("x", "y")), WORKERS], times)
    path = draw(grid, crossovers(grid), tmp_path / "map.png")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
    assert draw(Grid([Axis("zone", ("x",))]), [], tmp_path / "none.png") is None


def test_lines_join_the_points_within_squares_and_leave_the_map() -> None:
    pytest.importorskip("matplotlib")
    from gearshift.sim.heatmap import segments

    assert segments({(0, 0, False): 0.3}, 2, 1) == [((0.3, 0), (0.3, -0.5)), ((0.3, 0), (0.3, 0.5))]
    crossed = segments({(0, 0, False): 0.3, (0, 1, False): 0.6}, 2, 2)
    assert crossed[0] == ((0.3, 0), (0.6, 1))
    assert crossed[1:] == [((0.3, 0), (0.3, -0.5)), ((0.6, 1), (0.6, 1.5))]
    alone = segments({(0, 0, False): 0.3}, 2, 3)  # the winner of the next row is not known
    assert alone == [((0.3, 0), (0.3, 0.5)), ((0.3, 0), (0.3, -0.5))]
    assert ((0, 0.3), (0.5, 0.3)) in segments({(0, 0, True): 0.3}, 2, 2)
    three = segments({(0, 0, False): 0.5, (0, 0, True): 0.5, (1, 0, True): 0.5}, 2, 2)
    middle = (0.5, pytest.approx(1 / 3))
    assert [end for _, end in three[:3]] == [middle] * 3
