"""Figures of hand-made answers against values computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gearshift_testing.simulated import raw_answer, result

import gearshift as gs
from gearshift.sim.figures import Distribution, Waiting, is_synchronous, measured_steps, waiting
from gearshift.sim.inputs import WorkloadFacts
from gearshift.sim.messages import Request
from gearshift.sim.result import Result, make_result
from gearshift.sim.table import fastest
from gearshift.strategy import parse


def test_a_distribution_interpolates_its_percentiles() -> None:
    found = Distribution.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == Distribution(mean=3.0, p50=3.0, p95=pytest.approx(4.8), least=1.0, most=5.0)


def test_synchronous_figures() -> None:
    found = result()
    # After the warm-up each worker has two steps of 0.4 s.
    assert found.step_seconds.mean == pytest.approx(0.4)
    assert found.throughput == pytest.approx(2 * 8 * 2 / 0.8)
    # Alone: 8 samples in 0.2 s on the host of speed 1, in 0.4 s on the other.
    assert found.efficiency == pytest.approx(40 / (40 + 20))
    assert found.exposed_share == pytest.approx((0.7 + 0.4) / 2.6)
    assert [link.utilisation for link in found.links] == [pytest.approx(0.5), pytest.approx(0.25)]
    assert found.bytes_sent == 600
    assert found.mean_staleness is None
    assert found.synchronous


def test_steps_below_the_tick_of_the_clock_are_told() -> None:
    raw = raw_answer()
    for worker in raw["workers"]:
        worker["begin"] = worker["computed"] = worker["end"] = [0.0, 0.0, 0.0]
    with pytest.raises(gs.InvalidArgument, match="less than a nanosecond"):
        result(raw)


def test_waiting_has_two_causes_that_add_up() -> None:
    found = result().waiting
    # Worker 0 waits for worker 1 for 0.1 s in each of 3 steps; 6 steps of a worker in all.
    assert found.slower_workers == pytest.approx(0.3 / 6)
    assert found.exposed == pytest.approx(1.1 / 6)
    assert found.slower_workers + found.communication == pytest.approx(found.exposed)
    assert found.hidden == pytest.approx((1.5 - 1.1) / 6)


def test_waiting_for_others_is_not_more_than_what_is_exposed() -> None:
    raw = raw_answer()
    raw["workers"][0]["exposed_seconds"] = 0.2
    assert waiting(raw["workers"], synchronous=True).slower_workers == pytest.approx(0.2 / 6)
    # Nor longer than the step: worker 0 is done before worker 1 has computed.
    raw = raw_answer()
    raw["workers"][0]["end"] = [0.25, 0.75, 1.15]
    assert waiting(raw["workers"], synchronous=True).slower_workers == pytest.approx(0.15 / 6)


def test_nobody_waits_for_others_without_synchrony() -> None:
    assert waiting(raw_answer()["workers"], synchronous=False).slower_workers == 0.0
    assert waiting([], synchronous=True) == Waiting(0.0, 0.0, 0.0, 0.0)


def test_asynchronous_steps_count_until_the_first_worker_is_done() -> None:
    raw = raw_answer()
    slow = raw["workers"][1]
    slow["begin"], slow["computed"], slow["end"] = [0.0, 0.6, 1.2], [0.5, 1.1, 1.7], [0.6, 1.2, 1.8]
    assert measured_steps(raw["workers"], 1, cut=True) == [range(1, 3), range(1, 2)]
    raw["workers"][0]["staleness"] = {0: 1, 2: 2}
    raw["workers"][1]["staleness"] = {0: 1, 1: 2}
    found = result(raw, "ps:asp")
    assert found.throughput == pytest.approx(8 * 2 / 0.8 + 8 * 1 / 0.6)
    assert found.step_seconds.mean == pytest.approx((0.4 + 0.4 + 0.6) / 3)
    assert found.counted_seconds() == pytest.approx([0.4, 0.4, 0.6])
    assert found.staleness == {0: 2, 1: 2, 2: 2}
    assert found.mean_staleness == pytest.approx(1.0)
    assert not found.synchronous


def local_answer(steps: int, every: int, warmup: int, slow: float = 0.0) -> Result:
    """Computes for 0.16 s, updates in 0.04 s; a round takes 0.3 s. Worker 1 computes longer."""
    raw = raw_answer()
    now = 0.0
    for worker in raw["workers"]:
        worker |= {"begin": [], "computed": [], "end": [], "exposed_seconds": 0.0}
    clocks = [0.0, 0.0]
    for step in range(1, steps + 1):
        for worker, factor in zip(raw["workers"], (1.0, 1.0 + slow), strict=True):
            now = clocks[worker["rank"]]
            worker["begin"].append(now)
            worker["computed"].append(now + 0.16 * factor)
            clocks[worker["rank"]] = now + 0.2 * factor
        if step % every == 0 or step == steps:
            clocks = [max(clocks) + 0.3] * 2
        for worker in raw["workers"]:
            worker["end"].append(clocks[worker["rank"]])
    raw["virtual_seconds"] = max(clocks)
    request = Request("", "c.toml", "", "w.toml", parse(f"local_sgd({every})"), steps=steps)
    facts = WorkloadFacts(batch_size=8, compute_seconds=0.2, optimizer_seconds=0.04)
    return make_result(raw, request, ("pair", "toy"), facts, warmup=warmup)


def test_whole_rounds_count_under_local_sgd() -> None:
    found = local_answer(steps=20, every=8, warmup=2)  # there are rounds after 8, 16 and 20
    assert list(found.counted) == [range(8, 16)] * 2
    assert found.step_seconds.mean == pytest.approx(0.2 + 0.3 / 8)
    assert (found.step_seconds.p50, found.step_seconds.most) == pytest.approx((0.2, 0.5))
    assert found.throughput == pytest.approx(2 * 8 / (0.2 + 0.3 / 8))
    assert found.waiting.exposed == found.waiting.communication == pytest.approx(0.3 / 8)
    assert found.exposed_share == pytest.approx((0.3 / 8) / (0.2 + 0.3 / 8))
    assert len(found.counted_seconds()) == 16
    assert (found.synchronous, found.asynchronous, found.local) == (False, False, True)
    assert not found.unsettled
    assert "counted" not in found.to_dict()


def test_under_local_sgd_the_late_are_waited_for_once_per_round() -> None:
    found = local_answer(steps=12, every=4, warmup=2, slow=0.5)
    assert list(found.counted) == [range(4, 12)] * 2
    # Worker 0 waits for 4 * 0.1 s, of which worker 1 needs 0.02 s for its last update.
    assert found.waiting.slower_workers == pytest.approx((4 * 0.1 - 0.02) / 4 / 2)
    assert found.waiting.exposed == pytest.approx((4 * 0.1 / 4 + 2 * 0.3 / 4) / 2)
    assert found.step_seconds.mean == pytest.approx(0.3 + 0.3 / 4)


def test_too_few_steps_for_a_whole_round_are_told() -> None:
    found = local_answer(steps=20, every=16, warmup=2)
    assert list(found.counted) == [range(2, 20)] * 2
    assert found.unsettled
    assert "no whole round of 16 steps after the warm-up" in found.summary()
    assert "steps=32 tells" in found.summary()
    assert not local_answer(steps=32, every=16, warmup=2).unsettled
    assert not local_answer(steps=20, every=16, warmup=0).unsettled
    assert found.step_seconds.mean == pytest.approx((18 * 0.2 + 2 * 0.3) / 18)


def test_time_runs_from_the_first_attempt_of_the_first_step() -> None:
    raw = raw_answer()
    for worker in raw["workers"]:
        worker["first_begins"] = [0.0, 0.1, 0.2]
    assert result(raw).throughput == pytest.approx(2 * 8 * 2 / (1.3 - 0.1))


def test_who_is_too_slow_for_the_window_counts_with_all_steps() -> None:
    raw = raw_answer()
    raw["workers"][1]["end"] = [2.0, 4.0, 6.0]
    assert measured_steps(raw["workers"], 1, cut=True) == [range(1, 3), range(1, 3)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all_reduce", True),
        ("ps:bsp", True),
        ("ps:ssp(3)", False),
        ("ps:asp", False),
        ("ps:buffered(2)", False),
        ("switch", False),
        ("local_sgd(8)", False),
        ("switch(then=local_sgd(8), at=5)", False),
    ],
)
def test_which_strategies_are_synchronous(text: str, expected: bool) -> None:
    assert is_synchronous(parse(text)) is expected


@pytest.mark.parametrize(
    ("text", "epochs", "told"),
    [
        ("switch", None, "waits for the loss"),
        ("switch", 0, "steps_per_epoch="),
        ("switch", 4, "no plateau"),
        ("switch(at=9)", None, "did not ask for it"),
    ],
)
def test_a_strategy_that_never_switches_says_why(text: str, epochs: int | None, told: str) -> None:
    raw = raw_answer() | ({} if epochs is None else {"steps_per_epoch": epochs})
    found = result(raw, text)
    assert found.idle_switch is not None
    assert told in found.idle_switch
    assert told in found.summary()
    assert found.synchronous, "all of it was All-Reduce"
    assert not found.unsettled
    raw["switches"] = [{"step": 2, "to": "ps:asp"}]
    assert result(raw, text).idle_switch is None
    assert not result(raw, text).synchronous
    assert result(raw).idle_switch is None


def test_what_diverged_is_not_the_best() -> None:
    slower = raw_answer()
    for worker in slower["workers"]:
        worker["end"] = [2 * time for time in worker["end"]]
        worker["begin"] = [2 * time for time in worker["begin"]]
    fast, slow = result(raw_answer()), result(slower)
    assert fastest({"a": fast, "b": slow}) == "a"
    wild = result(raw_answer() | {"diverged": (0, 2, "the loss ran away")})
    assert fastest({"a": wild, "b": slow}) == "b"
    assert fastest({"a": wild, "b": wild}) is None


def test_training_that_ends_within_the_warm_up_is_an_error() -> None:
    raw = raw_answer()
    for worker in raw["workers"]:
        for key in ("begin", "computed", "end"):
            worker[key] = worker[key][:1]
    with pytest.raises(gs.Error, match="warm-up"):
        result(raw)


def test_a_result_goes_into_json_frames_text_and_pictures(tmp_path: Path) -> None:
    found = result()
    values = json.loads(json.dumps(found.to_dict()))
    assert values["waiting"]["slower_workers"] == pytest.approx(0.05)
    assert values["links"][0] == {
        "name": "fast out",
        "bandwidth": 1000.0,
        "bytes": 650.0,
        "utilisation": 0.5,
    }
    assert "raw" not in values
    text = found.summary()
    assert "2 workers" in text
    assert "400 ms" in text
    assert "fast out: 50 %" in text
    pytest.importorskip("matplotlib")
    assert found.plot(tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")
    pytest.importorskip("pandas")
    steps = found.steps_frame()
    assert list(steps.columns) == ["rank", "host", "step", "begin", "computed", "end", "seconds"]
    assert len(steps) == 6
    assert steps["seconds"].iloc[0] == pytest.approx(0.5)
    assert list(found.links_frame()["link"]) == ["fast out", "slow in"]


def test_pictures_show_the_steps_that_count_and_links_to_their_end() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    from gearshift.sim import plot

    raw = raw_answer()
    slow = raw["workers"][1]
    slow["begin"], slow["computed"], slow["end"] = [0.0, 0.6, 1.2], [0.5, 1.1, 1.7], [0.6, 1.2, 1.8]
    raw["links"][0]["bytes"] *= 4  # of several ways that share no port
    found = result(raw, "ps:asp")
    times, links = figure.subplots(1, 2)
    plot._draw_times(times, found)
    assert sum(bar.get_height() for bar in times.patches) == len(found.counted_seconds())
    plot._draw_links(links, found)
    assert links.get_xlim()[1] >= 100 * found.links[0].utilisation > 100
    plot._draw_links(links.figure.add_subplot(), result())
    assert figure.axes[-1].get_xlim() == (0, 100)
