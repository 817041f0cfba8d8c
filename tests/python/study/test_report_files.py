"""The files of a report: whole, linked, self-contained, and equal when made again."""

# ruff: noqa: RUF001  (factors have their sign)

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from gearshift_testing.made_study import fill, outcome, study
from PIL import Image

from gearshift.errors import Error
from gearshift.study.cell import CLOCKS, Cell, Outcome
from gearshift.study.report import write_report

FIVE = ("all_reduce", "ps:bsp", "ps:ssp(3)", "ps:asp", "switch(at=0.5)")
_STEPS = {"all_reduce": 0.03, "ps:bsp": 0.033, "ps:ssp(3)": 0.024, "ps:asp": 0.02}


def usual(cell: Cell) -> Outcome:
    """All-Reduce is slow; asynchronous strategies need a little more."""
    real = 1.05 if cell.clock == "measured" else 1.0
    far = 1.5 if cell.cluster == "wan" else 1.0
    stale = cell.strategy in ("ps:ssp(3)", "ps:asp")
    change = {"step": 20, "to": "ps:asp", "reason": "step 20 of 100 was reached"}
    return outcome(
        _STEPS.get(cell.strategy, 0.025) * real * far * (1 + 0.01 * cell.seed),
        round((44 if stale else 40) / cell.rate**0.1),
        mean_staleness=2.5 if stale else None,
        max_staleness=4 if stale else None,
        switches=(change,) if cell.strategy.startswith("switch") else (),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every section and figure that there is."""
    made = study(
        FIVE, ("digits", "text"), ("lan", "wan"), rates=(0.5, 1.0),
        clocks=("simulated", "measured"),
    )  # fmt: skip
    path = fill(
        tmp_path_factory.mktemp("study"), made, usual,
        machine={"cores": 2}, versions={"torch": "2.13.0"},
        command="gearshift study <study>.toml", commit="0123abc",
    )  # fmt: skip
    assert write_report(path) == path / "report.html"
    return path


def text_of(path: Path) -> str:
    return (path / "report.md").read_text(encoding="utf-8")


def made_of(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_the_answer_is_made_of_the_data(folder: Path) -> None:
    answer = text_of(folder).partition("## 2.")[0]
    assert "Of 4 combinations of use case and cluster, the target is reached first by `ps:asp`" \
        " in 4." in answer  # fmt: skip
    # 0.03 × 40 steps against 0.02 × 44.
    assert "median gain ×1.36 over `all_reduce`" in answer
    assert "faster in 4, slower in 0 of 4" in answer
    assert "it does ×1.50 the samples per second and needs ×1.10 the samples" in answer
    assert "against staying with `all_reduce` it gains in 4 (median gain ×1.20)" in answer
    assert "incomplete" not in answer


def test_clocks_are_compared(folder: Path) -> None:
    part = text_of(folder).partition("## 7.")[2].partition("## 8.")[0]
    assert "Mean step time: simulations are 4.76 % off on average over 40 pairs" in part
    assert "the same strategy first in 4 of 4 combinations" in part


def test_pictures_are_there_numbered_and_say_their_data(folder: Path) -> None:
    text = text_of(folder)
    pictures = re.findall(r"^!\[Figure (\d+)\]\((.+)\)$", text, re.MULTILINE)
    assert [int(number) for number, _ in pictures] == list(range(1, len(pictures) + 1))
    assert {name for _, name in pictures} == {
        f"figures/{path.name}" for path in (folder / "figures").iterdir()
    }
    captions = re.findall(r"^\*\*Figure (\d+)\.\*\* .+ \*Data: `(\w+\.parquet)`.*\*$", text,
                          re.MULTILINE)  # fmt: skip
    assert [number for number, _ in captions] == [number for number, _ in pictures]
    assert all((folder / name).exists() for _, name in captions)
    for _, name in pictures:
        with Image.open(folder / name) as image:
            assert len(image.convert("RGB").reduce(3).getcolors(1 << 24)) > 3  # something is drawn


def test_sections_stand_in_order(folder: Path) -> None:
    numbers = re.findall(r"^## (\d)\. ", text_of(folder), re.MULTILINE)
    assert numbers == list("123456789")


def test_the_way_to_make_it_again_is_told(folder: Path) -> None:
    part = text_of(folder).partition("## 9.")[2]
    for said in ("gearshift study <study>.toml", "gearshift report .", "cores 2", "torch 2.13.0",
                 "`0123abc`", "Seeds: 1, 2, 3", "strategies.parquet"):  # fmt: skip
        assert said in part


class Page(HTMLParser):
    """What an HTML page asks a browser to fetch, and its links within."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                assert value not in self.names
                self.names.add(value)
            elif name in ("src", "srcset") and value:
                self.fetched.append(value)
            elif name == "href" and value:
                self.links.append(value)


def test_the_page_needs_nothing_else(folder: Path) -> None:
    source = (folder / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(source)
    pictures = len(list((folder / "figures").iterdir()))
    assert len(page.fetched) == pictures
    assert all(value.startswith("data:image/png;base64,") for value in page.fetched)
    assert page.links
    assert all(link[0] == "#" and link[1:] in page.names for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in source
    assert "@import" not in source
    assert page.tags.count("table") > 10
    assert "gearshift study &lt;study&gt;.toml" in source


def test_tables_have_every_cell(folder: Path) -> None:
    cells = pd.read_parquet(folder / "cells.parquet")
    assert len(cells) == 2 * 2 * 2 * 5 * 2 * 3
    one = cells.query(
        "use_case == 'text' and cluster == 'wan' and clock == 'simulated' and rate == 1"
        " and strategy == 'ps:asp' and seed == 2"
    ).iloc[0]
    assert one.status == "reached"
    assert one.time_to_target == pytest.approx(44 * 0.02 * 1.5 * 1.02)
    assert one.samples_to_target == pytest.approx(44 * 40)
    assert one.mean_staleness == 2.5
    assert cells.query("strategy == 'switch(at=0.5)'").switch_step.eq(20).all()
    assert cells.query("strategy == 'all_reduce'").mean_staleness.isna().all()

    curves = pd.read_parquet(folder / "curves.parquet")
    assert list(curves.columns) == ["use_case", "cluster", "clock", "strategy", "rate", "seed",
                                    "seconds", "step", "samples", "loss", "metric"]  # fmt: skip
    assert len(curves) == 10 * len(cells)

    arms = pd.read_parquet(folder / "strategies.parquet")
    assert len(arms) == 2 * 2 * 2 * 5
    first = arms.query("place == 1")
    assert set(first.strategy) == {"ps:asp"}
    assert first.gain.to_numpy() == pytest.approx(0.03 * 40 / (0.02 * 44))
    for name in ("cells", "curves", "strategies"):
        table = pd.read_csv(folder / f"{name}.csv")
        assert len(table) == len(pd.read_parquet(folder / f"{name}.parquet"))


def test_made_again_it_is_the_same(folder: Path) -> None:
    before = made_of(folder)
    (folder / "figures/curves-gone-simulated.png").write_bytes(b"of an earlier study")
    write_report(folder)
    assert made_of(folder) == before


def small(tmp_path: Path, outcomes: Callable[[Cell], Outcome | str | None]) -> str:
    write_report(fill(tmp_path, study(("all_reduce", "ps:asp")), outcomes))
    return text_of(tmp_path)


def test_an_interrupted_study_says_what_is_missing(tmp_path: Path) -> None:
    text = small(tmp_path, lambda cell: None if cell.seed == 3 else usual(cell))
    assert "**This report is incomplete: 2 of 6 cells not run.**" in text
    assert "digits on lan, ps:asp, seed 3, simulated" in text
    assert "With two seeds in 1 of 1" in text


def test_what_cannot_be_measured_is_not_missing(tmp_path: Path) -> None:
    made = study(("all_reduce", "ps:asp"), clusters=("lan", "far"), clocks=CLOCKS)
    own = replace(made.use_cases[0], name="text", clocks=("simulated",))
    made = replace(made, use_cases=(made.use_cases[0], own))
    assert len(made.cells()) == 2 * 3 * (4 + 2)
    here = tmp_path / "made"
    fill(
        here,
        made,
        lambda cell: None if (cell.cluster, cell.clock) == ("far", "measured") else usual(cell),
        skipped={"far": "its latency is 5 ms"},
    )
    write_report(here)
    text = text_of(here)
    assert "incomplete" not in text
    assert "- `far`: its latency is 5 ms" in text


def test_a_cell_of_an_earlier_version_of_the_study_counts_as_not_run(tmp_path: Path) -> None:
    made = study(("all_reduce", "ps:asp"))
    first = made.cells()[0]
    recipes = {cell.slug: "made" for cell in made.cells()} | {first.slug: "another"}
    fill(tmp_path, made, usual, recipes=recipes)
    write_report(tmp_path)
    assert "incomplete: 1 of 6 cells not run" in text_of(tmp_path)


def test_failed_cells_say_why(tmp_path: Path) -> None:
    text = small(
        tmp_path, lambda cell: "rank 2 | died" if cell.strategy == "ps:asp" else usual(cell)
    )
    assert "3 of 6 failed" in text
    assert "seed 1, simulated: rank 2 \\| died" in text
    assert "`ps:asp` has no result" in text


def test_local_sgd_is_neither_synchronous_nor_stale(tmp_path: Path) -> None:
    names = ("all_reduce", "local_sgd(8)", "local_sgd(32)")

    def outcomes(cell: Cell) -> Outcome:
        if cell.strategy == "local_sgd(32)" and cell.cluster == "wan":
            return outcome(0.01, None, 0.6)
        step, needed = {"all_reduce": (0.03, 40), "local_sgd(8)": (0.02, 50)}.get(
            cell.strategy, (0.01, 80)
        )
        return outcome(step, needed)

    write_report(fill(tmp_path, study(names, clusters=("lan", "wan")), outcomes))
    text = text_of(tmp_path)
    assert "## 4. What local SGD costs\n" in text
    costs = text.partition("## 4.")[2].partition("## 5.")[0]
    assert "`local_sgd(8)` needs ×1.25 (1.25 to 1.25) the samples of All-Reduce." in costs
    assert "`local_sgd(32)` needs ×2.00 the samples of All-Reduce." in costs
    assert "`local_sgd(32)` does not reach the target in 1 of 2 combinations." in costs
    for word in ("stale", "asynchron", "Left out"):
        assert word not in costs
    assert not (tmp_path / "figures" / "staleness.png").exists()
    answer = text.partition("## 2.")[0]
    assert "`local_sgd(8)` against `all_reduce`: faster in 2, slower in 0 of 2." in answer
    assert "it does ×1.50 the samples per second and needs ×1.25 the samples" in answer
    assert "It loses in 1 by not reaching the target." in answer


def test_divergence_is_told(tmp_path: Path) -> None:
    gone = outcome(0.001, 20, diverged="diverged after step 90")
    text = small(tmp_path, lambda cell: gone if cell.strategy == "ps:asp" else usual(cell))
    assert "slower in 1 of 1. It loses in 1 by diverging." in text
    assert "diverged (best 0.900)" in text
    assert "a cross is where training diverged" in text


def test_a_target_that_nobody_reaches(tmp_path: Path) -> None:
    text = small(tmp_path, lambda _: outcome(0.01, None, top=0.5))
    assert "**In none of 1 combination of use case and cluster does any strategy" in text
    assert "not reached (best 0.500)" in text
    assert "is left out: no strategy reaches the target" in text


def test_metrics_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    def outcomes(cell: Cell) -> Outcome:
        last = outcome().curve[-1]
        gone = last.__class__(
            last.seconds + 1, last.step + 10, last.samples + 1, None, float("nan")
        )
        return outcome(curve=(*outcome().curve, gone))

    small(tmp_path, outcomes)
    curves = pd.read_parquet(tmp_path / "curves.parquet")
    assert curves.metric.notna().all()
    assert len(curves) == 6 * 10


def test_one_strategy_one_seed_one_clock(tmp_path: Path) -> None:
    made = study(("ps:asp",), seeds=(7,), clocks=("measured",))
    write_report(fill(tmp_path, made, usual))
    text = text_of(tmp_path)
    assert "Only `ps:asp` was run in 1 combination" in text
    for number, why in ((4, "no combination has"), (5, "no strategy of this study switches"),
                        (6, "with one learning rate"), (7, "no cell was both")):  # fmt: skip
        part = text.partition(f"## {number}.")[2].partition("## ")[0]
        assert "Left out" in part
        assert why in part


def test_one_strategy_that_reaches_the_target_somewhere(tmp_path: Path) -> None:
    made = study(("ps:bsp",), ("digits",), ("lan", "wan"))
    outcomes = {"lan": outcome(), "wan": outcome(to_target=None, top=0.7)}
    fill(tmp_path, made, lambda cell: outcomes[cell.cluster])
    write_report(tmp_path)
    answer = text_of(tmp_path).partition("## 2.")[0]
    assert "Only `ps:bsp` was run in 2 combinations of use case and cluster: there is" in answer
    assert "Nobody reaches the target in 1 of 2." in answer


def test_who_reaches_the_target_in_fewer_seeds_does_not_lose_by_its_speed(tmp_path: Path) -> None:
    def outcomes(cell: Cell) -> Outcome:
        if cell.strategy == "all_reduce":
            return outcome(0.03)
        return outcome(0.02) if cell.seed == 1 else outcome(0.02, to_target=None, top=0.7)

    made = study(("all_reduce", "ps:asp"), seeds=(1, 2))
    write_report(fill(tmp_path, made, outcomes))
    answer, _, rest = text_of(tmp_path).partition("## 2.")
    assert "`all_reduce` reaches the target in more of the seeds than `ps:asp` does." in rest
    said = "It loses in 1 by reaching the target in fewer of the seeds."
    assert f"`ps:asp` against `all_reduce`: faster in 0, slower in 1 of 1. {said}" in answer


def test_names_are_no_markup(tmp_path: Path) -> None:
    made = study(("all_reduce", "ps:asp"))
    object.__setattr__(made, "title", "a | *b* <script>alert(1)</script> $x_1$")
    write_report(fill(tmp_path, made, usual))
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source
    assert "a | *b* &lt;script&gt;alert(1)&lt;/script&gt; $x_1$</h1>" in source


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [(lambda _: None, "none of the 6 cells"), (lambda _: "no root", "all 6 cells .* no root")],
)
def test_nothing_to_report_is_an_error(
    tmp_path: Path, outcomes: Callable[[Cell], str | None], said: str
) -> None:
    fill(tmp_path, study(("all_reduce", "ps:asp")), outcomes)
    with pytest.raises(Error, match=said):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_without_a_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"study\.json"):
        write_report(tmp_path)
    (tmp_path / "study.json").write_text('{"name": "demo"}')
    with pytest.raises(Error, match=r"study\.json is damaged, or of something else"):
        write_report(tmp_path)


def test_cells_of_an_earlier_file_take_no_part(tmp_path: Path) -> None:
    fill(tmp_path, study(("all_reduce", "ps:asp", "ps:bsp")), usual)
    write_report(fill(tmp_path, study(("all_reduce", "ps:asp")), usual))
    text = text_of(tmp_path)
    assert "3 cells in the folder" in text
    assert "ps:bsp" not in text


def test_many_clusters_stand_below_each_other(tmp_path: Path) -> None:
    places = ("c1", "c2", "c3", "c4", "c5", "c6")
    made = study(("all_reduce", "ps:asp"), clusters=places, seeds=(1,))
    write_report(fill(tmp_path, made, usual))
    matrix = text_of(tmp_path).partition("## 2.")[2].partition("![Figure 1]")[0]
    assert "| Cluster | Digits |" in matrix
    assert [line.split(" ")[1] for line in matrix.splitlines() if line.startswith("| C")][1:] == [
        place.capitalize() for place in places
    ]


def test_what_nobody_reaches_is_no_lack_of_common_seeds(tmp_path: Path) -> None:
    made = study(("all_reduce", "ps:asp", "switch(at=0.5)"))
    write_report(fill(tmp_path, made, lambda _: outcome(0.01, None, top=0.5)))
    text = text_of(tmp_path)
    assert "| reached by neither | reached by neither |" in text
    assert "no seed in common" not in text


def test_a_target_that_each_reaches_in_other_seeds_is_told_so(tmp_path: Path) -> None:
    def outcomes(cell: Cell) -> Outcome:
        reaches = (cell.strategy == "ps:asp") == (cell.seed < 3)
        return outcome(0.01, 40) if reaches else outcome(0.01, None, top=0.5)

    text = small(tmp_path, outcomes)
    assert "| Digits, Lan | reached in 2 seeds, by the other in 1 |" in text
    assert "not reached by the other" not in text


def test_the_few_seeds_are_those_of_the_strategy_that_has_few(tmp_path: Path) -> None:
    steps = {"all_reduce": 0.02, "ps:asp": 0.03, "ps:bsp": 0.05}

    def outcomes(cell: Cell) -> Outcome | None:
        missing = (cell.strategy, cell.seed) == ("ps:bsp", 3)
        return None if missing else outcome(steps[cell.strategy])

    write_report(fill(tmp_path, study((*steps,)), outcomes))
    assert "With two seeds in 1 of 1, who is first there may be chance" in text_of(tmp_path)


def test_several_strategies_without_a_result_have_none(tmp_path: Path) -> None:
    made = study(("all_reduce", "ps:bsp", "ps:asp"))
    write_report(fill(tmp_path, made, lambda c: usual(c) if c.strategy == "all_reduce" else "gone"))
    assert "- Digits, Lan: `ps:bsp` and `ps:asp` have no result." in text_of(tmp_path)


@pytest.mark.parametrize("name", ["größe", "my task", "a)b", "50%", "a%20b", "x<y", 'say "no"'])
def test_a_use_case_of_any_name_has_its_pictures(tmp_path: Path, name: str) -> None:
    """Names are those of the tasks' files, where a study gives no other."""
    write_report(fill(tmp_path, study(("all_reduce", "ps:asp"), (name,)), usual))
    page = Page()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert (tmp_path / f"figures/curves-{name}-simulated.png").is_file()
    assert len(page.fetched) == len(list((tmp_path / "figures").iterdir()))
    assert all(value.startswith("data:image/png;base64,") for value in page.fetched)


@pytest.mark.parametrize("end", ["all_reduce", "ps:asp"])
def test_a_switch_beside_one_of_its_two_strategies(tmp_path: Path, end: str) -> None:
    path = fill(tmp_path, study((end, "switch(at=0.5)"), ("digits",), ("lan",)), usual)
    write_report(path)
    part = text_of(path).partition("## 5.")[2].partition("## 6.")[0]
    other = {"all_reduce": "ps:asp", "ps:asp": "all_reduce"}[end]
    assert f"no `{other}` here" in part
    assert f"Time to the target of `{end}` alone in proportion to the switch" in part
    assert (path / "figures" / "switches.png").exists()
