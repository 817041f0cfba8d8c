"""The paragraph of a recommendation, from made-up throughputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from gearshift_testing.simulated import raw_answer, result

import gearshift as gs
from gearshift.errors import Error
from gearshift.sim import recommend
from gearshift.sim.batch import Batch, Job, Settings
from gearshift.sim.inputs import read_cluster, read_workload
from gearshift.sim.recommend import Accuracy, Estimate, Recommendation
from gearshift.sim.result import Result

needs_simulator = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without the simulator"
)


def recommendation(best: str = "all_reduce:ring") -> Recommendation:
    """With the best of three strategies, and those that are slower."""
    throughput = {"ps:asp": 150.0, "all_reduce:ring": 120.0, "all_reduce": 100.0}
    estimates = {
        name: Estimate(value, 0.02, name != "ps:asp")
        for name, value in throughput.items()
        if value <= throughput[best]
    }
    return Recommendation(best, estimates)


class MadeUp(Batch):
    """Simulations whose samples per second a function of cluster and strategy says; None: fails."""

    compression = 1.0
    """So many times as fast are strategies with it."""
    local = 1.0
    """What local SGD does."""

    def __init__(self, throughput: Callable[[str, str], float | None]) -> None:
        super().__init__(Settings())
        self._throughput = throughput

    def run(
        self, jobs: Sequence[Job], what: str = "simulating", keep: bool = False
    ) -> list[Result | Error]:
        return [self._one(job) for job in jobs]

    def _one(self, job: Job) -> Result | Error:
        if job.strategy.startswith("local_sgd"):
            return replace(result(), throughput=self.local, synchronous=False, local=True)
        name = job.strategy.replace("(compression=bf16)", "")
        found = self._throughput(job.cluster.name, name)
        if found is not None and name != job.strategy:
            found *= self.compression
        synchronous = not job.strategy.startswith("ps:asp")
        if found is None:
            return Error("host n-1 failed")
        return replace(
            result(), throughput=found, synchronous=synchronous, asynchronous=not synchronous
        )


def recommended(throughput: Callable[[str, str], float | None], *names: str) -> Recommendation:
    """For two hosts."""
    cluster, workload = read_cluster({"hosts": [{"name": "n", "count": 2}]}), read_workload({})
    return recommend.recommend(cluster, workload, names, MadeUp(throughput))


def test_it_says_what_by_how_much_and_how_sure() -> None:
    found = recommendation()
    found.changes = {"twice the bandwidth": "all_reduce:ring", "8 workers": "ps:asp"}
    text = found.text()
    assert text.startswith("Use all_reduce:ring: 120 samples/s expected.")
    assert "20.0 % more than the runner-up, all_reduce." in text
    assert "3 seeds differ by ±2.0 %" in text
    assert "not validated on your machines: run `gearshift calibrate`" in text
    assert "ps:asp with 8 workers. It stays with twice the bandwidth." in text
    assert "asynchronous" not in text
    assert "\n" not in text
    assert found.gain_over("all_reduce") == pytest.approx(0.2)


def test_an_asynchronous_winner_comes_with_the_best_synchronous_one() -> None:
    text = recommendation("ps:asp").text()
    assert "25.0 % more than the runner-up, all_reduce:ring and" in text
    assert "50.0 % more than plain all_reduce" in text
    assert "updates are those of one process is all_reduce:ring, 20.0 % slower" in text


def test_what_is_too_close_is_said_to_be() -> None:
    found = recommendation()
    assert "cannot be told" not in found.text()
    found.accuracy = Accuracy(0.25, 0.4, 24)
    text = found.text()
    assert "in 24 configurations the model was 25.0 % off on average" in text
    assert "it cannot be told from all_reduce" in text


def test_changes_say_on_how_many_hosts_workers_are() -> None:
    pytest.importorskip("gearshift._sim", reason="built without the simulator")
    several = recommend._changes(read_cluster({"hosts": [{"name": "n", "workers": 4}]}))
    assert [c for c in several if "worker" in c] == ["8 workers on 2 hosts", "2 workers"]
    alone = recommend._changes(read_cluster({"hosts": [{"name": "n", "count": 2}]}))
    assert [c for c in alone if "worker" in c] == ["4 workers", "1 worker"]


def test_equals_are_no_runner_up() -> None:
    found = recommendation()
    found.estimates["all_reduce:tree"] = Estimate(119.99, 0.0, True)
    assert found.runner_up == "all_reduce"
    assert "Equally fast here: all_reduce:tree." in found.text()


def test_updates_of_one_process_come_before_equally_fast_stale_ones() -> None:
    settle = recommend._settle
    asynchronous = Estimate(121.0, 0.02, False)
    estimates = {"ps:asp": asynchronous} | recommendation().estimates
    assert settle(estimates, None) == "all_reduce:ring"
    assert settle(estimates | {"ps:asp": Estimate(121.0, 0.0, False)}, None) == "ps:asp"
    assert settle(estimates | {"all_reduce": Estimate(119.9, 0.0, True)}, None) == "all_reduce"
    text = Recommendation("all_reduce:ring", estimates).text()
    assert "ps:asp, asynchronous, is faster by 0.8 %, no more." in text
    uncertain = {"ps:asp": Estimate(150.0, 0.3, False)} | recommendation().estimates
    assert settle(uncertain, None) == "all_reduce:ring"
    text = Recommendation("all_reduce:ring", uncertain).text()
    assert "ps:asp, asynchronous, is faster by 25.0 %, give or take 30.0 %." in text
    assert text == text.strip()


def test_plain_all_reduce_comes_before_what_is_no_faster_as_far_as_can_be_told() -> None:
    estimates = recommendation().estimates | {"all_reduce": Estimate(119.0, 0.0, True)}
    settle = recommend._settle
    assert settle(estimates, None) == "all_reduce"  # 0.8 % of ±2.0 %
    sure = estimates | {"all_reduce:ring": Estimate(120.0, 0.0, True)}
    assert settle(sure, None) == "all_reduce:ring"
    assert settle(sure, Accuracy(0.02, 0.06, 24)) == "all_reduce"
    text = Recommendation("all_reduce", estimates).text()
    assert "all_reduce:ring is faster by 0.8 %, give or take 2.0 %." in text
    assert "asynchronous" not in text


@needs_simulator
def test_a_change_under_which_nothing_works_is_told() -> None:
    def throughput(cluster: str, strategy: str) -> float | None:
        return None if "half the bandwidth" in cluster else 100.0

    found = recommended(throughput, "all_reduce", "ps:bsp")
    assert "half the bandwidth" not in found.changes
    assert found.impossible == {"half the bandwidth": "host n-1 failed"}
    assert "twice the bandwidth" in found.changes


@needs_simulator
def test_what_fails_with_another_seed_is_not_recommended() -> None:
    class Chance(MadeUp):
        failing: tuple[str, ...] = ("all_reduce:tree",)

        def _one(self, job: Job) -> Result | Error:
            fails = job.seed == 3 and job.strategy in self.failing
            return Error("host n-1 failed") if fails else super()._one(job)

    speeds = {"all_reduce:tree": 200.0, "all_reduce": 150.0}
    made_up = Chance(lambda cluster, strategy: speeds[strategy])
    cluster, workload = read_cluster({"hosts": [{"name": "n"}]}), read_workload({})
    found = recommend.recommend(cluster, workload, list(speeds), made_up)
    assert (found.best, list(found.estimates)) == ("all_reduce", ["all_reduce"])
    assert found.impossible == {"all_reduce:tree": "host n-1 failed"}
    assert set(found.changes.values()) == {"all_reduce"}
    made_up.failing = tuple(speeds)
    with pytest.raises(Error, match="host n-1 failed"):
        recommend.recommend(cluster, workload, list(speeds), made_up)
    speeds["ps:bsp"] = 120.0
    found = recommend.recommend(cluster, workload, list(speeds), made_up)
    assert found.compressed == ("ps:bsp(compression=bf16)", 0.0), "nor with compression"


@needs_simulator
def test_it_says_what_compression_would_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"ps:bsp": 120.0, "all_reduce": 100.0}
    plain = recommended(lambda cluster, strategy: speeds[strategy], *speeds)
    assert plain.compressed == ("ps:bsp(compression=bf16)", 0.0)
    assert "bfloat16" not in plain.text()
    monkeypatch.setattr(MadeUp, "compression", 1.5)
    faster = recommended(lambda cluster, strategy: speeds[strategy], *speeds)
    assert faster.best == "ps:bsp"
    assert "(ps:bsp(compression=bf16)), would do 50.0 % more." in faster.text()
    assert faster.to_dict()["compressed"] == ("ps:bsp(compression=bf16)", pytest.approx(0.5))
    # The fastest is not always the one that gains most.
    gains = {"ps:bsp(compression=bf16)": 130.0, "all_reduce(compression=bf16)": 180.0}

    class Uneven(MadeUp):
        def _one(self, job: Job) -> Result | Error:
            found = super()._one(replace(job, strategy=job.strategy.split("(")[0]))
            assert isinstance(found, Result)
            return replace(found, throughput=gains.get(job.strategy, found.throughput))

    cluster, workload = read_cluster({"hosts": [{"name": "n", "count": 2}]}), read_workload({})
    uneven = Uneven(lambda cluster, strategy: speeds[strategy])
    answer = recommend.recommend(cluster, workload, list(speeds), uneven)
    assert answer.compressed == ("all_reduce(compression=bf16)", pytest.approx(0.5))
    # What is compressed already, or does not work with it, is no suggestion.
    assert recommended(lambda *_: 1.0, "all_reduce(compression=bf16)").compressed is None


@needs_simulator
def test_it_says_what_local_sgd_would_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = recommended(lambda *_: 100.0, "all_reduce")
    assert plain.local == ("local_sgd(8)", pytest.approx(-0.99))
    assert "local" not in plain.text()
    monkeypatch.setattr(MadeUp, "local", 250.0)
    found = recommended(lambda *_: 100.0, "all_reduce")
    assert found.best == "all_reduce"
    assert found.to_dict()["local"] == ("local_sgd(8)", pytest.approx(1.5))
    assert (
        "With local_sgd(8), workers would train alone and average their parameters every 8 steps, "
        "and do 150.0 % more samples per second; how many more of them the same "
        "quality takes, only training tells."
    ) in found.text()
    # Where it is a candidate there is nothing to suggest, and what it is, is said.
    asked = recommended(lambda *_: 100.0, "all_reduce", "local_sgd(4)")
    assert (asked.best, asked.local) == ("local_sgd(4)", None)
    assert "It is local SGD: samples per second say nothing about" in asked.text()
    assert "workers that train alone between two rounds can need more" in asked.text()
    assert "stale" not in asked.text()
    asked.compressed = ("local_sgd(4, compression=bf16)", 0.5)
    assert "Changes of parameters as bfloat16" in asked.text()
    assert "Gradients" not in asked.text()
    assert "updates are those of one process is all_reduce, 60.0 % slower" in asked.text()


@needs_simulator
def test_too_few_steps_are_said_to_be_few_for_what_they_are() -> None:
    many = Estimate(90.0, 0.0, True)
    too_few = "no whole round of 32 steps after the warm-up: --steps 64 tells"
    local = Estimate(100.0, 0.0, False, unsettled=True, local=True, too_few=too_few)
    slow = Estimate(80.0, 0.0, False, unsettled=True)
    text = Recommendation("all_reduce", {"l": local, "all_reduce": many, "ps:asp": slow}).text()
    assert f"Local SGD: {too_few}." in text
    assert "Asynchronous workers who don't wait for each other" in text
    assert "l, local SGD, is faster by 11.1 %" in text


@needs_simulator
def test_a_change_is_answered_as_the_question_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accuracy, "load", lambda: Accuracy(0.02, 0.06, 24))

    def throughput(cluster: str, strategy: str) -> float:
        if strategy == "all_reduce:tree":
            return 100.0
        faster = {"twice the bandwidth": 110.0, "half the bandwidth": 120.0}
        lead = next((value for change, value in faster.items() if change in cluster), 90.0)
        if "twice the bandwidth" in cluster and strategy == "ps:asp":
            return lead * 1.01  # no more than the margin: ps:bsp is what is recommended there
        return lead * 1.05 if strategy == "ps:asp" else lead

    found = recommended(throughput, "all_reduce:tree", "ps:bsp", "ps:asp")
    assert found.best == "all_reduce:tree"
    assert found.changes["twice the bandwidth"] == "ps:bsp"
    assert found.changes["half the bandwidth"] == "ps:asp"
    assert found.changes["4 workers"] == "all_reduce:tree"


def test_the_accuracy_is_read_where_the_package_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommend.resources, "files", lambda package: tmp_path)
    assert Accuracy.load() is None
    values = {"mean_absolute_error": 0.02, "p95_absolute_error": 0.06, "configurations": 24}
    (tmp_path / "accuracy.json").write_text(json.dumps(values | {"more": 1}), encoding="utf-8")
    assert Accuracy.load() == Accuracy(0.02, 0.06, 24)


def test_an_estimate_is_of_several_seeds() -> None:
    other = raw_answer()
    for worker in other["workers"]:
        worker["end"] = [time + 0.1 * i for i, time in enumerate(worker["end"])]
        worker["begin"] = [0.0, *worker["end"][:-1]]
    found = Estimate.of([result(), result(other)])
    assert (found.mean, found.synchronous) == (pytest.approx((40 + 32) / 2), True)
    assert found.spread == pytest.approx(4 / 36)


def test_steps_that_were_not_simulated_add_to_the_margin() -> None:
    raw = raw_answer()
    skipped = {"first": 2, "last": 3, "period": 1, "estimated": True, "half_width": 0.008}
    raw["skipped"] = skipped
    found = Estimate.of([result(), result(raw)])
    assert found.half_width == 0.008
    assert found.uncertainty == pytest.approx(found.spread + 0.008)
    answer = recommendation()
    answer.estimates["all_reduce:ring"] = Estimate(120.0, 0.02, True, 0.008)
    assert answer.margin == pytest.approx(0.028)
    assert "differ by ±2.0 %, steps that were not simulated add ±0.8 %" in answer.text()
