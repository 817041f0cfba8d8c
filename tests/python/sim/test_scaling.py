"""Clusters and workloads that differ from a file in one thing."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

import gearshift as gs
from gearshift.sim import scaling, toml_text
from gearshift.sim.inputs import WorkloadFacts, read_cluster, read_workload


def counts(cluster: dict[str, Any]) -> list[int]:
    return [host.get("count", 1) for host in cluster["hosts"]]


def test_one_entry_gets_the_count() -> None:
    cluster: dict[str, Any] = {"hosts": [{"name": "a", "count": 4}]}
    scaling.scale_workers(cluster, 16)
    assert cluster == {"hosts": [{"name": "a", "count": 16}]}
    cluster = {"defaults": {"workers": 2}, "hosts": [{"name": "a"}]}
    scaling.scale_workers(cluster, 6)
    assert counts(cluster) == [3]


@pytest.mark.parametrize(
    ("before", "workers", "after"),
    [([8, 8], 4, [2, 2]), ([8, 8], 5, [3, 2]), ([6, 3, 1], 20, [12, 6, 2]), ([3, 1], 2, [2]),
     ([2, 1], 7, [5, 2])],
)  # fmt: skip
def test_several_are_scaled_in_proportion(
    before: list[int], workers: int, after: list[int]
) -> None:
    cluster = {"hosts": [{"name": f"h{i}", "count": count} for i, count in enumerate(before)]}
    scaling.scale_workers(cluster, workers)
    assert counts(cluster) == after


def test_hosts_of_servers_alone_stay() -> None:
    cluster = {"hosts": [{"name": "a", "count": 2}, {"name": "s", "workers": 0, "servers": 1}]}
    scaling.scale_workers(cluster, 8)
    assert cluster["hosts"][1] == {"name": "s", "workers": 0, "servers": 1}
    assert counts(cluster)[0] == 8


def test_workers_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(gs.InvalidArgument, match=r"hosts of 4 workers.*hosts\.workers"):
        scaling.scale_workers({"hosts": [{"name": "laptop", "workers": 4}]}, 6)
    with pytest.raises(gs.InvalidArgument, match="no host has workers"):
        scaling.scale_workers({"hosts": [{"name": "s", "workers": 0}]}, 6)


def test_what_names_a_host_follows_it() -> None:
    cluster = {
        "hosts": [{"name": "a", "count": 8}, {"name": "b"}],
        "stragglers": [{"host": "a-7"}, {"host": "b"}],
        "failures": [{"host": "a-1", "at": 3}],
    }
    scaling.scale_workers(cluster, 18)
    assert [s["host"] for s in cluster["stragglers"]] == ["a-7", "b-0"]
    scaling.scale_workers(cluster, 9)
    assert [s["host"] for s in cluster["stragglers"]] == ["a-7", "b"]
    cluster = {"hosts": [{"name": "a", "count": 8}], "stragglers": [{"host": "a-6"}]}
    scaling.scale_workers(cluster, 4)
    assert cluster["stragglers"] == [{"host": "a-2"}]
    scaling.scale_workers(cluster, 1)
    assert cluster["stragglers"] == [{"host": "a"}]


def test_a_straggler_is_never_left_out_silently() -> None:
    cluster = {"hosts": [{"name": "a", "count": 9}, {"name": "b"}], "stragglers": [{"host": "b"}]}
    with pytest.raises(gs.InvalidArgument, match='host "b", which stragglers name'):
        scaling.scale_workers(cluster, 2)


def test_no_two_stragglers_come_to_one_host() -> None:
    cluster = {
        "hosts": [{"name": "a", "count": 8}],
        "stragglers": [{"host": "a-6"}, {"host": "a-2"}, {"host": "a-6", "from_step": 9}],
        "failures": [{"host": "a-6", "at": 1}, {"host": "a-7", "at": 2}],
    }
    scaling.scale_workers(cluster, 4)
    assert [s["host"] for s in cluster["stragglers"]] == ["a-3", "a-2", "a-3"]
    assert [f["host"] for f in cluster["failures"]] == ["a-3", "a-0"]
    with pytest.raises(gs.InvalidArgument, match='host "a-3", which failures name, would be left'):
        scaling.scale_workers(cluster, 2)
    scaling.change(cluster, {}, {"workers": 3, "stragglers": 1})
    assert cluster["stragglers"] == [{"host": "a-2", "factor": 2.0}]


def test_one_more_straggler_is_another_host() -> None:
    cluster: dict[str, Any] = {
        "hosts": [{"name": "a", "count": 3}, {"name": "s", "workers": 0, "servers": 1}],
        "stragglers": [{"host": "a-2", "factor": 3}],
    }
    scaling.add_straggler(cluster, 2.0)
    assert cluster["stragglers"] == [
        {"host": "a-2", "factor": 3},
        {"host": "a-1", "factor": 2.0},
    ]
    scaling.add_straggler(cluster, 2.0)
    with pytest.raises(gs.InvalidArgument, match="all hosts with workers are stragglers"):
        scaling.add_straggler(cluster, 2.0)


def test_workers_of_each_host_come_before_their_number() -> None:
    for axes in (["workers", "hosts.workers"], ["hosts.workers", "workers"]):
        cluster: dict[str, Any] = {
            "hosts": [{"name": "a", "count": 4}, {"name": "s", "workers": 0, "servers": 1}]
        }
        values = {"workers": 8, "hosts.workers": 4}
        scaling.change(cluster, {}, {axis: values[axis] for axis in axes})
        assert cluster["hosts"] == [
            {"name": "a", "count": 2, "workers": 4},
            {"name": "s", "workers": 0, "servers": 1},
        ]


def test_a_point_of_a_sweep_sets_everything() -> None:
    cluster: dict[str, Any] = {"hosts": [{"name": "a", "count": 2}, {"name": "b", "count": 2}]}
    workload = {"batch_size": 8, "forward": "10 ms", "backward": 0.02, "optimizer": "1 ms",
                "parameters": [{"name": "w", "shape": [3], "ready": "20 ms"}]}  # fmt: skip
    point = {
        "stragglers": 2, "workers": 6, "bandwidth": 1e6, "hosts.per_message": 1e-5,
        "batch_size": 16, "straggler_factor": 3.0,
    }  # fmt: skip
    scaling.change(cluster, workload, point)
    assert cluster["hosts"] == [
        {"name": name, "count": 3, "bandwidth": 1e6, "per_message": 1e-5} for name in "ab"
    ]
    assert cluster["stragglers"] == [
        {"host": "b-1", "factor": 3.0},
        {"host": "b-2", "factor": 3.0},
    ]
    assert workload["backward"] == pytest.approx(0.04)
    assert workload["parameters"][0]["ready"] == pytest.approx(0.04)  # type: ignore[index]
    assert workload["optimizer"] == "1 ms"
    with pytest.raises(gs.InvalidArgument, match="only 6 hosts"):
        scaling.set_stragglers(cluster, 7, 2.0)
    with pytest.raises(gs.InvalidArgument, match="stragglers=2: only 1 host has workers"):
        scaling.set_stragglers({"hosts": [{"name": "a"}]}, 2, 2.0)
    with pytest.raises(gs.InvalidArgument, match="no stragglers"):
        scaling.set_factor({"hosts": []}, 2.0)


def test_bandwidth_scales_interfaces_and_uplinks() -> None:
    cluster: dict[str, Any] = {
        "defaults": {"bandwidth": "1G"},
        "hosts": [{"name": "a"}, {"name": "b", "bandwidth": "100M"}],
        "zones": [{"name": "z", "bandwidth": "10G"}, {"name": "free"}],
    }
    scaling.scale_bandwidth(cluster, 2.0)
    assert [host["bandwidth"] for host in cluster["hosts"]] == [
        pytest.approx(250e6),
        pytest.approx(25e6),
    ]
    assert cluster["zones"] == [{"name": "z", "bandwidth": pytest.approx(2.5e9)}, {"name": "free"}]


def test_dicts_and_files_are_the_same(tmp_path: Any) -> None:
    document = {
        "name": 'a "name"\n',
        "defaults": {"speed": 0.5},
        "hosts": [{"name": "a", "count": 2}, {"name": "ü", "workers": 0}],
        "variability": {"kind": "empirical", "factors": [1.0, 2, 1e-9]},
    }
    assert tomllib.loads(toml_text.dumps(document)) == document
    assert read_cluster(document).document() == document
    path = tmp_path / "some.toml"
    path.write_text(toml_text.dumps({"hosts": [{"name": "a"}]}), encoding="utf-8")
    assert read_cluster(path).title == "some"
    assert read_cluster(path.read_text(encoding="utf-8")).title == "cluster"
    json = tmp_path / "w.json"
    json.write_text('{"forward": "1 ms", "backward": 0.002, "batch_size": 4}', encoding="utf-8")
    assert WorkloadFacts.of(read_workload(json)) == WorkloadFacts(4, pytest.approx(0.003))


def test_what_is_no_cluster_is_refused(tmp_path: Any) -> None:
    with pytest.raises(gs.Error, match=r"nowhere\.toml: No such file"):
        read_cluster(tmp_path / "nowhere.toml")
    with pytest.raises(gs.InvalidArgument, match="a dict, not an int"):
        read_cluster(3)  # type: ignore[arg-type]
    with pytest.raises(gs.InvalidArgument, match="a dict, not None"):
        read_cluster(None)  # type: ignore[arg-type]
    with pytest.raises(gs.InvalidArgument, match=r"hosts\[0\].name: a set"):
        read_cluster({"hosts": [{"name": {1}}]})
    (tmp_path / "bad.toml").write_text("name = \n", encoding="utf-8")
    with pytest.raises(gs.InvalidArgument, match=r"bad\.toml: .*line 1"):
        read_cluster(tmp_path / "bad.toml").document()
