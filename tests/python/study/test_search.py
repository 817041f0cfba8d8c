"""Learning rates that a study searches: the search finds the best one, whatever the curve."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gearshift_testing.made_study import fill, outcome, study
from typer.testing import CliRunner

from gearshift.cli import app
from gearshift.launch import LaunchError
from gearshift.sim.display import PlainDisplay
from gearshift.study import runner
from gearshift.study.cell import Cell, Done, Outcome, Study
from gearshift.study.report import write_report
from gearshift.study.report.analysis import combinations
from gearshift.study.report.data import load
from gearshift.study.report.numbers import rate_factor
from gearshift.study.search import FURTHEST, cells_of
from gearshift.study.store import Store
from gearshift.study.study_file import read_study

pytestmark = pytest.mark.usefixtures("forked_cells")
HERE = Path(__file__).parent
Outcomes = Callable[[Cell], Outcome | str]


def searching(**more) -> Study:
    """A study that searches."""
    made = study(**{"strategies": ("ps:asp",), **more})
    cases = tuple(replace(case, rates=(1.0, 2.0), searched=True) for case in made.use_cases)
    return replace(made, use_cases=cases)


def searched(made: Study, outcomes: Outcomes) -> dict[Cell, Done]:
    """The cells that were run until nothing was asked for any more, in this order."""
    done: dict[Cell, Done] = {}
    while todo := [cell for cell in cells_of(made, done.get) if cell not in done]:
        for cell in todo:
            found = outcomes(cell)
            told = isinstance(found, str)
            done[cell] = Done(cell, None if told else found, found if told else None)
    assert set(cells_of(made, done.get)) == set(done)
    return done


def rates(done: dict[Cell, Done], seed: int = 1) -> list[float]:
    """That were tried with a seed, in order."""
    return [cell.rate for cell in done if cell.seed == seed]


def steps_by_rate(best: float) -> Outcomes:
    """20 steps at the best rate, 10 more for every factor of two."""
    return lambda cell: outcome(0.01, 20 + round(10 * abs(math.log2(cell.rate / best))))


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (1, [1, 2, 0.5]),
        (2, [1, 2, 4]),
        (8, [1, 2, 4, 8, 16]),
        (1 / 4, [1, 2, 1 / 2, 1 / 4, 1 / 8]),
    ],
)
def test_the_first_seed_goes_on_until_both_neighbours_are_worse(best, tried):
    done = searched(searching(), steps_by_rate(best))
    assert rates(done) == tried
    assert rates(done, 2) == rates(done, 3) == [best]  # the others run the best one only


def test_who_misses_the_target_is_led_by_its_best_metric():
    def outcomes(cell: Cell) -> Outcome:
        return outcome(0.01, None, top=0.7 - 0.1 * abs(math.log2(cell.rate / 4)))

    done = searched(searching(), outcomes)
    assert rates(done) == [1, 2, 4, 8]
    assert rates(done, 2) == [4]


def test_a_rate_at_which_training_diverges_is_worse_than_any_other():
    gone = outcome(0.001, 20, diverged="diverged after step 90")

    def outcomes(cell: Cell) -> Outcome:
        return gone if cell.rate > 1 / 4 else outcome(0.01, None, top=cell.rate)

    done = searched(searching(), outcomes)
    assert rates(done) == [1, 2, 1 / 2]  # of two that are as bad the first one is kept
    done = searched(searching(), lambda cell: gone if cell.rate > 1 else outcome(0.01, 90))
    assert rates(done) == [1, 2, 1 / 2]
    assert rates(done, 3) == [1]


def test_a_cell_that_fails_is_worse_than_any_other():
    def outcomes(cell: Cell) -> Outcome | str:
        return "out of memory" if cell.rate == 4 else steps_by_rate(4)(cell)

    done = searched(searching(), outcomes)
    assert rates(done) == [1, 2, 4]
    assert rates(done, 2) == [2]


@pytest.mark.parametrize("steady", [1, 2])
def test_where_seeds_miss_the_target_that_the_first_one_reaches_all_try_half_as_much(steady):
    def outcomes(cell: Cell) -> Outcome:
        if cell.seed == 3 and cell.rate > steady:
            return outcome(0.01, None, top=0.1)
        return steps_by_rate(4)(cell)

    done = searched(searching(), outcomes)
    assert rates(done) == [1, 2, 4, 8]
    assert rates(done, 2) == rates(done, 3) == [4, 2, 1][: 1 + int(math.log2(4 / steady))]


def test_the_search_has_an_end_where_more_is_always_better():
    assert max(rates(searched(searching(), lambda c: outcome(0.01 / c.rate)))) == FURTHEST
    assert min(rates(searched(searching(), lambda c: outcome(0.01 * c.rate)))) == 1 / FURTHEST


def test_each_strategy_on_each_cluster_has_a_search_of_its_own(tmp_path):
    best = {("all_reduce", "lan"): 4, ("all_reduce", "wan"): 1 / 2, ("ps:asp", "lan"): 8,
            ("ps:asp", "wan"): 2}  # fmt: skip
    made = searching(strategies=("all_reduce", "ps:asp"), clusters=("lan", "wan"))

    def outcomes(cell: Cell) -> Outcome:
        return steps_by_rate(best[cell.strategy, cell.cluster])(cell)

    done = searched(made, outcomes)
    cells = [vars(cell) for cell in cells_of(made, done.get)]
    fill(tmp_path, made, lambda _: None, cells=cells)
    for one in done.values():
        Store(tmp_path).save(one)
    found = combinations(load(tmp_path))
    told = {(arm.strategy, one.cluster): arm.best.rate for one in found for arm in one.arms}
    assert told == best
    assert all(len(arm.best.runs) == 3 for one in found for arm in one.arms)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Searched for each strategy, with the first seed" in text
    assert "**200 ms, 3 seeds**" in text
    tried = ", ".join(map(rate_factor, (0.25, 0.5, 1, 2, 4, 8, 16)))
    assert f"Learning rates: {tried} that of the task (each strategy's was searched)" in text
    assert "incomplete" not in text


def test_of_several_seeds_the_rate_counts_at_which_most_reach_the_target(tmp_path):
    def outcomes(cell: Cell) -> Outcome:
        if cell.rate == 2:
            return outcome(0.01, None if cell.seed == 3 else 20, top=0.7 if cell.seed == 3 else 0.9)
        return outcome(0.01, 40)

    [one] = combinations(load(fill(tmp_path, study(("ps:asp",), rates=(1, 2)), outcomes)))
    assert one.first.best.rate == 1
    # A rate that fewer seeds have run does not count, however fast it was.
    made = study(("ps:asp",), rates=(1, 2))
    lucky = fill(
        tmp_path / "b",
        made,
        lambda c: None if (c.rate, c.seed) == (2, 3) else outcome(c.rate / 100),
    )
    [one] = combinations(load(lucky))
    assert one.first.best.rate == 1


CLUSTER = '[defaults]\nbandwidth = "10 Mbit/s"\n[[hosts]]\nname = "node"\ncount = 2\n'
STUDY = """
strategies = ["ps:bsp", "ps:asp"]
seeds = 2
[[use_cases]]
task = "study_task.py"
target = 0.8
learning_rates = "search"
[[clusters]]
file = "two.toml"
"""


@pytest.fixture
def study_path(tmp_path):
    shutil.copy(HERE / "study_task.py", tmp_path)
    (tmp_path / "two.toml").write_text(CLUSTER)
    (tmp_path / "lines.toml").write_text(STUDY)
    return tmp_path / "lines.toml"


@pytest.fixture
def made_up(monkeypatch):
    """Cells are not simulated, which takes seconds for each: factor 4 is the best one."""

    def simulate(study, cells, tasks, pool, on_done, on_steps):
        for number, cell in enumerate(cells):
            on_done(number, steps_by_rate(4)(cell))

    monkeypatch.setattr(runner, "simulate_cells", simulate)
    return simulate


def run(path: Path, *options: str, code: int = 0) -> str:
    made = CliRunner().invoke(app, ["study", str(path), "--out", str(path.parent / "o"), *options])
    assert made.exit_code == code, made.output
    return made.output


@pytest.mark.usefixtures("made_up")
def test_a_study_that_searches_can_be_gone_on_with(study_path, monkeypatch):
    listed = run(study_path, "--dry-run").splitlines()
    assert listed[:2] == [
        "study_task on two, ps:bsp, seed 1, simulated",
        "study_task on two, ps:bsp at 2 of the rate, seed 1, simulated",
    ]
    assert listed[4] == "4 cells, and those that searches ask for"

    begun: list[str] = []
    monkeypatch.setattr(PlainDisplay, "begin", lambda self, what, of: begun.append(what))
    run(study_path, "--strategy", "ps:bsp", "--seeds", "1")
    assert begun == [f"simulating, part {number}" for number in range(1, len(begun) + 1)]
    assert len(begun) > 1
    folder = study_path.parent / "o"
    first = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert len(first) >= 3
    assert all("-1-simulated" in name for name in first)  # of the first seed only

    said = run(study_path)
    cells = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert f"{len(cells) - len(first)} cells run, {len(first)} kept from before" in said
    assert first.items() <= cells.items()
    facts = json.loads((folder / "study.json").read_text())
    assert len(facts["cells"]) == len(facts["recipes"]) == len(cells)
    assert "incomplete" not in (folder / "report.md").read_text()

    assert f"0 cells run, {len(cells)} kept" in run(study_path)
    assert f"{len(cells)} cells run\n" in run(study_path, "--again")


def test_the_rate_that_is_found_is_the_best_of_a_grid(study_path):
    text = STUDY.replace('"ps:bsp", ', "").replace("seeds = 2", "seeds = 1")
    text = text.replace("target = 0.8\n", "")
    study_path.write_text(text)
    run(study_path)
    found = combinations(load(study_path.parent / "o"))
    best = {arm.strategy: arm.best.rate for arm in found[0].arms}
    grid = [0.5 * min(best.values()), *best.values(), 2 * max(best.values())]
    study_path.write_text(text.replace('"search"', str(sorted(set(grid)))))
    run(study_path)
    found = combinations(load(study_path.parent / "o"))
    assert {arm.strategy: arm.best.rate for arm in found[0].arms} == best


@pytest.mark.parametrize("given", ['"search"', "[1, 0.5]"])
def test_rates_that_cannot_be_scaled_are_refused_before_anything_is_run(study_path, given):
    task = study_path.parent / "study_task.py"
    task.write_text(
        task.read_text()
        + "\ndef cycle():\n    made = training()\n"
        + "    made.scheduler = torch.optim.lr_scheduler.OneCycleLR(made.optimizer, 0.1, 9)\n"
        + "    return made\n"
    )
    text = STUDY.replace('"study_task.py"', '"study_task.py:cycle"').replace('"search"', given)
    study_path.write_text(text)
    with pytest.raises(LaunchError, match=r"lines.toml:7: .*learning_rates: OneCycleLR has rates"):
        read_study(study_path)
    study_path.write_text(text.replace(given, "[1]"))
    assert len(read_study(study_path).cells()) == 4


def test_another_word_than_search_is_refused(study_path):
    study_path.write_text(STUDY.replace('"search"', '"serach"'))
    with pytest.raises(
        LaunchError, match=r':7: .*learning_rates: must be .*"search", not "serach"'
    ):
        read_study(study_path)


def test_an_interrupted_run_again_reports_all_that_the_folder_has(study_path, made_up, monkeypatch):
    run(study_path)
    folder = study_path.parent / "o"
    facts, report = (folder / "study.json").read_text(), (folder / "report.md").read_text()
    assert "4 workers, 2 seeds" in report
    rounds = []

    def interrupted_later(*arguments):
        rounds.append(len(arguments[1]))
        if len(rounds) > 1:
            raise KeyboardInterrupt
        made_up(*arguments)

    monkeypatch.setattr(runner, "simulate_cells", interrupted_later)
    assert "4 cells run" in run(study_path, "--again", code=130)
    assert json.loads((folder / "study.json").read_text())["cells"] == json.loads(facts)["cells"]
    told = (folder / "report.md").read_text()
    assert "4 workers, 2 seeds" in told
    assert "took no part" not in told


def test_an_interrupted_search_says_that_cells_are_missing(study_path, made_up, monkeypatch):
    def only_first(*arguments):
        made_up(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "simulate_cells", only_first)
    assert "4 cells run" in run(study_path, code=130)
    told = (study_path.parent / "o" / "report.md").read_text()
    assert "This report is incomplete: 2 of 6 cells not run" in told
