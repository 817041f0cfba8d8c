"""What a report finds in studies whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import pytest
from gearshift_testing.made_study import fill, outcome, study
from mpmath import betainc

from gearshift.study.cell import Cell, Outcome, Study
from gearshift.study.report.analysis import Combination, combinations, compare, factors, kind_of
from gearshift.study.report.answer import outcome_of
from gearshift.study.report.clocks import error, orders, pairs
from gearshift.study.report.data import load
from gearshift.study.report.spread import ratio, student
from gearshift.study.report.switches import switches

BOTH = ("all_reduce", "ps:asp")


def found(
    folder: Path, made: Study, outcomes: Callable[[Cell], Outcome | str | None]
) -> list[Combination]:
    return combinations(load(fill(folder, made, outcomes)))


def by_step(steps: dict[str, float], wobble: float = 0.0) -> Callable[[Cell], Outcome]:
    """Steps of so many seconds, 40 of them to the target; seeds differ alike for all."""
    return lambda cell: outcome(steps[cell.strategy] * (1 + wobble * cell.seed))


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 31, 100])
def test_students_quantile_leaves_five_percent_out(freedom: int) -> None:
    t = student(freedom)
    outside = betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True)
    assert float(outside) == pytest.approx(0.05, abs=2e-4)


def test_the_interval_is_students_on_logarithms() -> None:
    logarithms = [math.log(2.0), math.log(2.2), math.log(1.9), math.log(2.1)]
    got = ratio(logarithms)
    half = 3.182 * stdev(logarithms) / 2
    assert got.mean == pytest.approx((2.0 * 2.2 * 1.9 * 2.1) ** 0.25)
    assert got.low == pytest.approx(math.exp(fmean(logarithms) - half))
    assert got.high == pytest.approx(math.exp(fmean(logarithms) + half))


def test_the_faster_wins_by_the_ratio_of_times(tmp_path: Path) -> None:
    steps = {"all_reduce": 0.03, "ps:asp": 0.02}
    [one] = found(tmp_path, study(BOTH), by_step(steps, wobble=0.4))
    assert one.verdict == "won"
    assert one.first.strategy == "ps:asp"
    # Seeds differ by more than strategies, and all alike: only pairs of seeds show who is faster.
    assert one.lead is not None
    assert one.lead.ratio is not None
    assert one.lead.ratio.mean == pytest.approx(1.5)
    assert one.lead.ratio.low == pytest.approx(1.5)
    assert one.first.best.time == pytest.approx(40 * 0.02 * 1.8)


def test_the_baseline_is_the_all_reduce_that_the_study_names_first(tmp_path: Path) -> None:
    names = ("ps:asp", "all_reduce", "all_reduce(compression=bf16)")
    steps = dict(zip(names, (0.04, 0.03, 0.02), strict=True))
    [one] = found(tmp_path, study(names), by_step(steps))
    assert one.first.strategy == "all_reduce(compression=bf16)"
    assert one.baseline is one.arm("all_reduce")


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [
        ("all_reduce(compression=bf16)", "all_reduce"),
        ("local_sgd(8)", "local"),
        ("local_sgd(100, outer_lr=0.7, outer_momentum=0.9)", "local"),
        ("ps:bsp", "synchronous"),
        ("ps:asp", "asynchronous"),
        ("switch(then=local_sgd(8), at=0.5)", "switch"),
    ],
)
def test_strategies_are_of_kinds(strategy: str, kind: str) -> None:
    assert kind_of(strategy) == kind


def test_time_is_samples_through_speed(tmp_path: Path) -> None:
    outcomes = {"all_reduce": outcome(0.03, 40), "ps:asp": outcome(0.02, 80)}
    [one] = found(tmp_path, study(BOTH), lambda cell: outcomes[cell.strategy])
    asp, all_reduce = one.arm("ps:asp"), one.arm("all_reduce")
    assert asp is not None
    assert all_reduce is not None
    why = factors(asp, all_reduce)
    assert why is not None
    assert (why.samples, why.speed, why.time) == pytest.approx((2, 1.5, 4 / 3))
    assert why.by_samples
    back = factors(all_reduce, asp)
    assert back is not None
    assert back.by_samples
    assert one.first is all_reduce


def test_who_loses_by_speed_is_told_from_who_loses_by_samples(tmp_path: Path) -> None:
    outcomes = {"all_reduce": outcome(0.01, 40), "ps:asp": outcome(0.03, 50)}
    [one] = found(tmp_path, study(BOTH), lambda cell: outcomes[cell.strategy])
    why = factors(one.arms[1], one.first)
    assert why is not None
    assert not why.by_samples


def test_leads_within_the_spread_of_seeds_are_level(tmp_path: Path) -> None:
    times = {"all_reduce": (0.020, 0.030, 0.021), "ps:asp": (0.021, 0.020, 0.026)}
    [one] = found(tmp_path, study(BOTH), lambda cell: outcome(times[cell.strategy][cell.seed - 1]))
    assert one.verdict == "level"
    assert [arm.strategy for arm in one.level] == ["all_reduce"]
    assert outcome_of(*one.arms) == outcome_of(*one.arms[::-1]) == "level"


def test_a_lead_below_one_percent_is_none(tmp_path: Path) -> None:
    [one] = found(tmp_path, study(BOTH), by_step({"all_reduce": 0.02, "ps:asp": 0.0201}))
    assert one.verdict == "level"


@pytest.mark.parametrize("seeds", [(5,), (5, 6)])
def test_few_seeds_name_a_first_without_being_sure(tmp_path: Path, seeds: tuple[int]) -> None:
    made = study(BOTH, seeds=seeds)
    [one] = found(tmp_path, made, by_step({"all_reduce": 0.03, "ps:asp": 0.02}))
    assert one.verdict == "few seeds"
    assert one.lead is not None
    assert one.lead.ratio is not None
    assert one.lead.seeds == len(seeds)
    assert one.lead.ratio.low is None
    assert not one.lead.decided


def test_who_never_reaches_the_target_loses_however_fast(tmp_path: Path) -> None:
    outcomes = {"all_reduce": outcome(0.5, 90), "ps:asp": outcome(0.001, None, top=0.79)}
    [one] = found(tmp_path, study(BOTH), lambda cell: outcomes[cell.strategy])
    assert one.verdict == "won"
    assert one.first.strategy == "all_reduce"
    assert one.lead is not None
    assert (one.lead.ratio, one.lead.ahead, one.lead.behind) == (None, 3, 0)
    assert one.arms[1].best.best == pytest.approx(0.79)


def test_divergence_undoes_what_was_reached_before(tmp_path: Path) -> None:
    gone = outcome(0.001, 20, diverged="diverged after step 90: the loss is not finite")
    outcomes = {"all_reduce": outcome(0.5, 90), "ps:asp": gone}
    [one] = found(tmp_path, study(BOTH), lambda cell: outcomes[cell.strategy])
    assert one.first.strategy == "all_reduce"
    assert not one.arms[1].ever_reached
    assert len(one.arms[1].best.diverged) == 3


def test_a_strategy_that_fails_in_one_seed_is_behind_one_that_never_does(tmp_path: Path) -> None:
    def outcomes(cell: Cell) -> Outcome:
        if cell.strategy == "all_reduce":
            return outcome(0.03)
        return outcome(0.02, None if cell.seed == 2 else 40, top=0.7 if cell.seed == 2 else 0.9)

    [one] = found(tmp_path, study(BOTH), outcomes)
    assert one.first.strategy == "all_reduce"
    assert one.verdict == "level"  # it is slower in the other seeds
    assert one.lead is not None
    assert (one.lead.ahead, one.lead.behind) == (1, 0)


def test_one_lucky_seed_decides_nothing(tmp_path: Path) -> None:
    def outcomes(cell: Cell) -> Outcome:
        lucky = cell.strategy == "all_reduce" and cell.seed == 2
        return outcome(0.01, 90 if lucky else None, top=0.9 if lucky else 0.79)

    [one] = found(tmp_path, study(BOTH), outcomes)
    assert one.first.strategy == "all_reduce"
    assert one.verdict == "level"
    assert outcome_of(*one.arms) == "level"


def test_nobody_wins_where_nobody_arrives(tmp_path: Path) -> None:
    tops = {"all_reduce": 0.5, "ps:asp": 0.6}
    [one] = found(tmp_path, study(BOTH), lambda cell: outcome(0.01, None, top=tops[cell.strategy]))
    assert one.verdict == "nobody"
    assert one.first.strategy == "ps:asp"  # the better metric stands first
    assert one.level == ()


def test_each_strategy_counts_with_its_best_rate(tmp_path: Path) -> None:
    steps = {("all_reduce", 1.0): 30, ("all_reduce", 0.5): 60, ("ps:asp", 0.5): 25}
    made = study(BOTH, rates=(0.5, 1.0))
    [one] = found(
        tmp_path,
        made,
        lambda cell: (
            outcome(0.01, steps.get((cell.strategy, cell.rate)), top=0.85)
            if (cell.strategy, cell.rate) in steps
            else outcome(0.01, None, top=0.3)
        ),
    )
    assert {arm.strategy: arm.best.rate for arm in one.arms} == {"all_reduce": 1, "ps:asp": 0.5}
    assert one.first.strategy == "ps:asp"
    assert one.lead is not None
    assert one.lead.ratio is not None
    assert one.lead.ratio.mean == pytest.approx(30 / 25)


def test_only_seeds_that_both_have_run_are_compared(tmp_path: Path) -> None:
    def outcomes(cell: Cell) -> Outcome | str | None:
        if cell.strategy == "ps:asp" and cell.seed == 1:
            return None
        if cell.strategy == "ps:asp" and cell.seed == 2:
            return "the process of rank 1 died"
        return outcome((0.03 if cell.strategy == "all_reduce" else 0.02) * cell.seed)

    [one] = found(tmp_path, study(BOTH), outcomes)
    all_reduce, asp = one.arm("all_reduce"), one.arm("ps:asp")
    assert all_reduce is not None
    assert asp is not None
    compared = compare(asp, all_reduce)
    assert compared.seeds == 1
    assert compared.ratio is not None
    assert compared.ratio.mean == pytest.approx(1.5)
    assert len(asp.best.failed) == 1


def test_a_switch_is_compared_with_both_of_its_strategies(tmp_path: Path) -> None:
    steps = {"all_reduce": 0.03, "ps:asp": 0.024, "switch(at=20)": 0.02}
    change = {"step": 20, "to": "ps:asp", "reason": "step 20 was reached"}

    def outcomes(cell: Cell) -> Outcome:
        made = (change,) if cell.strategy.startswith("switch") else ()
        return outcome(steps[cell.strategy], switches=made)

    [switch] = switches(found(tmp_path, study((*BOTH, "switch(at=20)")), outcomes))
    assert (switch.start, switch.then) == BOTH
    assert switch.over_start is not None
    assert switch.over_start.ratio is not None
    assert switch.over_then is not None
    assert switch.over_then.ratio is not None
    assert switch.over_start.ratio.mean == pytest.approx(1.5)
    assert switch.over_then.ratio.mean == pytest.approx(1.2)
    assert switch.reasons == ["step 20 was reached"]
    run = switch.arm.best.runs[0]
    assert run.switched == (20, pytest.approx(0.4))
    assert not switch.too_late


def test_a_switch_after_the_target_is_said_to_be_late(tmp_path: Path) -> None:
    change = {"step": 60, "to": "ps:asp", "reason": "step 60 was reached"}
    made = study(("switch(at=60)",))
    [switch] = switches(found(tmp_path, made, lambda _: outcome(switches=(change,))))
    assert switch.over_start is None
    assert switch.too_late


def test_measured_cells_say_how_far_simulated_ones_were_off(tmp_path: Path) -> None:
    steps = {
        ("all_reduce", "simulated"): 0.010,
        ("all_reduce", "measured"): 0.008,
        ("ps:asp", "simulated"): 0.011,
        ("ps:asp", "measured"): 0.010,
    }
    made = study(BOTH, clocks=("simulated", "measured"))
    both = found(tmp_path, made, lambda cell: outcome(steps[cell.strategy, cell.clock]))
    off = error(pairs(both, lambda group: group.time))
    assert off.mean_absolute == pytest.approx((0.25 + 0.1) / 2)
    assert off.worst.strategy == "all_reduce"
    assert off.worst.error == pytest.approx(0.25)
    [order] = orders(both)
    assert order.same_first
    assert (order.pairs, order.pairs_right) == (1, 1)


def test_clocks_that_rank_otherwise_are_told(tmp_path: Path) -> None:
    steps = {
        ("all_reduce", "simulated"): 0.02,
        ("all_reduce", "measured"): 0.01,
        ("ps:asp", "simulated"): 0.01,
        ("ps:asp", "measured"): 0.02,
    }
    made = study(BOTH, clocks=("simulated", "measured"))
    both = found(tmp_path, made, lambda cell: outcome(steps[cell.strategy, cell.clock]))
    [order] = orders(both)
    assert not order.same_first
    assert (order.pairs, order.pairs_right) == (1, 0)


def test_clocks_are_compared_over_the_seeds_that_both_have_run(tmp_path: Path) -> None:
    """Where measuring was interrupted, or a cell failed."""

    def outcomes(cell: Cell) -> Outcome | str | None:
        if cell.clock == "measured" and cell.seed > 1:
            return None if cell.strategy == "ps:asp" else "gone"
        real = 1.0 if cell.clock == "simulated" else 0.8
        return outcome(0.01 * real * cell.seed)

    both = found(tmp_path, study(BOTH, clocks=("simulated", "measured")), outcomes)
    compared = pairs(both, lambda group: group.time)
    assert [pair.strategy for pair in compared] == list(BOTH)
    assert [pair.simulated for pair in compared] == pytest.approx([0.4, 0.4])  # of seed 1
    assert [pair.error for pair in compared] == pytest.approx([0.25, 0.25])
