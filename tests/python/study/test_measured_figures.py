"""What surrounds a measured job: which clusters can be, at what pace, and what records say."""

from __future__ import annotations

from typing import Any

import pytest

import gearshift as gs
from gearshift.sim.inputs import Source, WorkloadFacts, read_cluster, read_workload
from gearshift.strategy import parse
from gearshift.study import measured, namespaces
from gearshift.study.cell import MEASURED, ClusterCase, Study, UseCase
from gearshift.study.measured_outcome import Run
from gearshift.study.pace import factors

pytest.importorskip("gearshift._sim")
pytest.importorskip("torch")

WORKLOAD = read_workload(
    {
        "batch_size": 4,
        "forward": 0.002,
        "backward": 0.006,
        "optimizer": 0.002,
        "variability": {"kind": "log-normal", "spread": 0.3},
        "parameters": [{"name": "w", "shape": [8]}, {"name": "b", "shape": [8]}],
    }
)


def cluster(hosts: int = 2, more_of_host: dict[str, Any] | None = None, **more: Any) -> Source:
    return read_cluster({"hosts": [{"name": "n", "count": hosts, **(more_of_host or {})}], **more})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (cluster(9), "9 processes, and hosts on this machine of 2 cores stand for at most 8"),
        (cluster(2, {"workers": 3, "servers": 2}), "10 processes"),
        (cluster(2, {"latency": "5 ms"}), 'the latency of "n-0" is 5 ms'),
        (
            cluster(2, {"zone": "rack"}, zones=[{"name": "rack", "bandwidth": "1 Gbit/s"}]),
            'the zone "rack" has an uplink',
        ),
        (
            cluster(2, {"zone": "far"}, zones=[{"name": "far", "latency": "10 ms"}]),
            'the zone "far" has an uplink',
        ),
        (cluster(2, failures=[{"host": "n-0", "at": "1 s"}]), "hosts of it fail"),
    ],
)
def test_says_why_a_cluster_cannot_be_measured(source: Source, reason: str) -> None:
    said = namespaces.unmeasurable(source, cores=2)
    assert said is not None
    assert reason in said


def test_takes_what_hosts_can_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "missing", lambda: None)
    zone = [{"name": "rack"}]
    assert namespaces.unmeasurable(cluster(8, {"zone": "rack"}, zones=zone), cores=2) is None
    assert namespaces.unmeasurable(cluster(9), cores=4) is None


def test_workers_are_as_fast_as_the_simulator_has_them() -> None:
    slow = {"host": "n-1", "factor": 3.0, "kind": "periodic", "period": 4}
    source = cluster(3, {"speed": 2.0}, stragglers=[slow])
    simulated = gs.simulate(source, WORKLOAD, "ps:asp", steps=20, seed=7, every_step=True)
    for ours, worker in zip(
        factors(source, WORKLOAD, 20, seed=7), simulated.raw["workers"], strict=True
    ):
        spans = zip(worker["begin"], worker["computed"], strict=True)
        assert ours == pytest.approx([(done - begin) / 0.008 for begin, done in spans], rel=1e-4)


def record(begin: float, steps: int, **more: Any) -> dict[str, Any]:
    """Steps of 20 s, whose gradients are there after 10 s."""
    begins = [begin + 20 * k for k in range(steps)]
    stats = {
        "pushes": steps,
        "mean_staleness": 1.5,
        "max_staleness": 3,
        "exposed_seconds": 5.0 * steps,
        "bytes_sent": 100,
        "switches": [],
    }
    return {
        "begin": begins,
        "computed": [t + 10 for t in begins],
        "end": [t + 20 for t in begins],
        "late": [9.0, 9.0] + [0.0] * (steps - 2),
        "stats": stats,
        "curve": [],
        "steps_per_epoch": 0,
        "diverged": None,
        "failure": None,
    } | more


def outcome(records: list[dict[str, Any]], strategy: str = "ps:asp", steps: int = 6) -> Any:
    network = namespaces.Network.of(cluster(len(records)))
    facts = WorkloadFacts.of(WORKLOAD)
    return Run(records, network, facts, parse(strategy), steps, dilation=4.0).outcome(cost=9.0)


def test_figures_are_on_the_clusters_clock() -> None:
    curve = [(3, 0.7, 0.5), (6, 0.4, 0.8)]
    found = outcome([record(1000.0, 6, curve=curve), record(1002.0, 6)], "all_reduce")
    assert found.step_mean == pytest.approx(5.0)
    assert found.seconds == pytest.approx(30.5)  # from 1000 to 1122
    assert found.samples_per_second == pytest.approx(2 * 4 / 5.0)
    assert found.efficiency == pytest.approx(0.010 / 5.0)
    assert found.exposed_share == pytest.approx(0.25)
    assert (found.dilation, found.cost, found.overrun_share) == (4.0, 9.0, 0.0)
    # At 60 s of the machine worker 1 has computed its third step, too: it began that at 42.
    assert [(p.seconds, p.step, p.samples) for p in found.curve] == [(15, 3, 24), (30, 6, 48)]


def test_lateness_is_that_after_the_warm_up() -> None:
    """Of the four steps after it, which last 80 s, 3 s are lost for the latest worker."""
    records = [record(0.0, 6, late=[9, 9, 0, 1, 0.001, 0]), record(0.0, 6, late=[9, 9, 2, 0, 0, 0])]
    facts = WorkloadFacts.of(WORKLOAD)
    network = namespaces.Network.of(cluster(2))
    made = Run(records, network, facts, parse("ps:asp"), 6, dilation=4.0)
    assert made.delay_share() == pytest.approx(3.001 / 80)
    assert made.overrun_share() == 2 / 8  # 5 % of 4 times 10 ms are no longer tolerated
    assert made.outcome(cost=9.0).overrun_share == 2 / 8


def test_staleness_is_that_of_all_pushes() -> None:
    records = [record(0.0, 6), record(0.0, 6)]
    records[1]["stats"] |= {"pushes": 2, "mean_staleness": 5.5, "max_staleness": 7}
    found = outcome(records)
    assert (found.mean_staleness, found.max_staleness) == (pytest.approx(2.5), 7)
    for one in records:
        one["stats"]["pushes"] = 0
    assert outcome(records).mean_staleness is None


def test_figures_end_with_a_divergence() -> None:
    ended = {"computed": [10.0, 30.0, 50.0], "end": [20.0, 40.0, 60.0]}
    first = (
        record(0.0, 4, curve=[(1, 0.7, 0.5), (2, 0.6, float("nan"))], failure="worker 1 left")
        | ended
    )
    second = record(0.0, 2, diverged=(2, "the loss is inf"))
    found = outcome([first, second])
    assert found.diverged == "diverged after step 1 at 5 s: the loss is inf"
    assert [point.step for point in found.curve] == [1]


def test_a_worker_that_failed_is_an_error() -> None:
    with pytest.raises(gs.Error, match="worker 1: worker 0 is gone"):
        outcome([record(0.0, 6), record(0.0, 5, failure="worker 0 is gone")])


def test_a_machine_that_cannot_keep_pace_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt is slower than the one before."""
    tried: list[float] = []

    def run(work: Any, network: Any, workload: Source) -> Run:
        tried.append(work.dilation)
        records = [record(0.0, 6, late=[5.0] * 6)]
        facts = WorkloadFacts.of(workload)
        return Run(records, network, facts, parse("ps:asp"), 6, work.dilation)

    monkeypatch.setattr(measured, "_run", run)
    monkeypatch.setattr(measured, "_trial", lambda work, processes: 0.02)
    monkeypatch.setattr(measured, "_dilations", {})
    use_case = UseCase("a", "A", "a.py", WORKLOAD, 6 * 4, "metric", 0.5)
    case = ClusterCase("here", "Here", cluster(1), (MEASURED,))
    made = Study("s", "S", (use_case,), (case,), ("ps:asp",), (1,))
    with pytest.raises(gs.Error, match=r"steps 25 % longer, though .* busy"):
        measured.measure(made, made.cells()[0], "a.py")
    assert len(tried) == 3
    assert tried == sorted(set(tried))
    assert tried[0] > 2
