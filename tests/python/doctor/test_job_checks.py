"""What is said of the processes of a job, from facts that are made up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from gearshift_testing.ports import reserved_port
from rich.console import Console

from gearshift.doctor import compare, display, judge, meeting, speed, together
from gearshift.doctor.finding import warning
from gearshift.doctor.pace import Pace
from gearshift.doctor.process import Process, labels
from gearshift.errors import Error, from_core
from gearshift.launch.environment import ProcessEnvironment

VERSIONS = {"gearshift": "0.1.0", "core": "0.1.0", "python": "3.11.2", "torch": "2.13.0"}


def process(rank: int, host: str = "", **changes) -> Process:
    made = Process(
        rank=rank,
        local_rank=0,
        node=rank,
        host=host or f"h{rank}",
        boot=f"boot-{rank}",
        address=f"10.0.0.{rank + 1}",
        interface="eth0",
        mtu=1500,
        port=40000,
        versions=VERSIONS,
        settings={},
        allowed=8,
        simd="AVX2",
        omp_threads=None,
    )
    return replace(made, **changes)


def link(a: int, b: int, there: float = 100e6, back: float = 100e6, **changes) -> speed.Link:
    made = speed.Link(a, b, "tcp", True, 50e-6, there, back, 0.0, min(there, back))
    return replace(made, **changes)


NAMES = {rank: f"h{rank}" for rank in range(6)}


def test_all_alike():
    assert [finding.level for finding in compare.compare([process(0), process(1)])] == ["ok"]


@pytest.mark.parametrize(
    ("name", "other", "level"),
    [
        ("gearshift", "0.2.0", "problem"),
        ("core", "0.2.0", "problem"),
        ("torch", "2.12.1", "problem"),
        ("torch", None, "problem"),
        ("python", "3.12.1", "warning"),
    ],
)
def test_versions_that_differ(name, other, level):
    odd = process(2, versions={**VERSIONS, name: other})
    (finding,) = compare.compare([process(0), process(1), odd])
    assert finding.level == level
    assert "ranks 0, 1 on h0, h1" in finding.found
    assert f"{other or 'none'}: rank 2 on h2" in finding.found or "rank 2 on h2" in finding.found


def test_patch_versions_may_differ():
    odd = process(1, versions={**VERSIONS, "torch": "2.13.1+cpu", "python": "3.11.9"})
    assert compare.compare([process(0), odd])[0].level == "ok"


def test_settings_that_differ():
    odd = process(1, settings={"GEARSHIFT_TRANSPORTS": "tcp", "GEARSHIFT_INTERFACE": "10.0.0.2"})
    (finding,) = compare.compare([process(0), odd])
    assert finding.topic == "GEARSHIFT_TRANSPORTS"
    assert "not set: rank 0 on h0; tcp: rank 1 on h1" in finding.found
    (finding,) = compare.compare([process(0, omp_threads="4"), process(1, omp_threads="1")])
    assert finding.topic == "OMP_NUM_THREADS"


def test_a_rendezvous_may_be_reached_by_an_interface_of_another_name():
    def differ(*where):
        made = [process(r, settings={"GEARSHIFT_RDZV": w}) for r, w in enumerate(where)]
        return [finding.topic for finding in compare.compare(made) if finding.level != "ok"]

    assert differ("[fe80::1%eth0]:29400", "[fe80::1%wire0]:29400") == []
    assert differ("[fe80::1%eth0]:29400", "[fe80::2%eth0]:29400") == ["GEARSHIFT_RDZV"]
    assert differ("file:///mnt/50%/a", "file:///mnt/50%/b") == ["GEARSHIFT_RDZV"]


def test_data_may_be_elsewhere_on_other_hosts():
    odd = process(1, settings={"GEARSHIFT_FASHION_MNIST": "/mnt/fashion"})
    assert [finding.level for finding in compare.compare([process(0), odd])] == ["ok"]


def test_packets_of_different_sizes():
    (finding,) = compare.compare([process(0), process(1, mtu=9000), process(2, mtu=None)])
    assert (finding.level, finding.topic) == ("warning", "MTU")
    assert "1500: rank 0 on h0; 9000: rank 1 on h1" in finding.found


def test_hosts_that_are_called_alike():
    same = [process(0, "node"), process(1, "node")]
    (finding,) = compare.compare(same)
    assert finding.topic == "host names"
    assert labels(same) == {0: "node (10.0.0.1)", 1: "node (10.0.0.2)"}
    containers = [replace(one, boot="same") for one in same]
    assert compare.compare(containers)[0].level == "ok"


def test_what_hosts_have_in_common_is_said_once():
    small = warning("/dev/shm", "64 MB", "why", "do")
    found = compare.of_hosts(
        [process(0, findings=[small]), process(1, findings=[small]), process(2)]
    )
    assert [finding.found for finding in found] == ["h0, h1: 64 MB"]


def test_processes_travel_as_json():
    sent = process(0, findings=[warning("a", "b", "c", "d")])
    assert Process.from_json(json.loads(json.dumps(sent.to_json()))) == sent
    report = together.Report(
        world=2, processes=[sent], links=[link(0, 1)], paces={0: Pace(1.0, 2.0)}
    )
    assert together.Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_times_have_the_unit_that_suits():
    entries = [{"bytes": 4096, "seconds": 2.13e-6, "how": "ring"},
               {"bytes": 1 << 24, "seconds": 0.01234, "how": "ring"}]  # fmt: skip
    console = Console(record=True, width=100)
    report = together.Report(world=2, processes=[], all_reduces=entries)
    display.print_report(console, report)
    shown = console.export_text()
    assert "all-reduce of 4 KiB: 2.13 us; ring" in shown
    assert "all-reduce of 16,384 KiB: 12.3 ms; ring" in shown


@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 7, 8])
def test_each_pair_of_hosts_meets_once(hosts):
    made = speed.rounds(hosts)
    pairs = [pair for pairs in made for pair in pairs]
    assert sorted(pairs) == [(a, b) for a in range(hosts) for b in range(a + 1, hosts)]
    for pairs in made:
        busy = [host for pair in pairs for host in pair]
        assert len(set(busy)) == len(busy)


def test_equal_links_are_fine():
    links = [link(0, 1), link(0, 2), link(1, 2, 90e6, 110e6)]
    assert [finding.level for finding in judge.judge_links(links, NAMES, True)] == ["ok"]


def test_a_slow_host_is_named():
    links = [
        link(a, b, *([20e6, 20e6] if b == 3 else [100e6, 100e6]))
        for a, b in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    ]
    (finding,) = judge.judge_links(links, NAMES, False)
    assert finding.topic == "slow links"
    assert "all of them lead to h3" in finding.found
    assert "h0 (rank 0) and h3 (rank 3): 20 MB/s, where 60 MB/s is usual" in finding.found


def test_a_slow_pair_is_named():
    links = [link(0, 1), link(0, 2), link(1, 2, 30e6, 30e6)]
    (finding,) = judge.judge_links(links, NAMES, False)
    assert "h1 (rank 1) and h2 (rank 2): 30 MB/s" in finding.found
    assert "h0" not in finding.found
    late = [link(0, 1), link(0, 2), link(1, 2, latency=20e-3)]
    (finding,) = judge.judge_links(late, NAMES, False)
    assert "20000 µs one way, where 50 is usual" in finding.found


def test_an_asymmetric_link():
    (finding,) = judge.judge_links([link(0, 1, 100e6, 10e6)], NAMES, False)
    assert finding.topic == "asymmetric link"
    assert "h1 (rank 1) to h0 (rank 0): 10 MB/s, and 100 MB/s the other way" in finding.found


def test_clocks_and_known_speeds():
    (finding,) = judge.judge_links([link(0, 1, clock=-2.5)], NAMES, False)
    assert "that of h1 (rank 1) is 2.50 s behind that of h0 (rank 0)" in finding.found
    old = [link(0, 1, surveyed=1e9)]
    assert judge.judge_links(old, NAMES, False)[0].level == "ok"  # assumed, not known
    (finding,) = judge.judge_links(old, NAMES, True)
    assert "100 MB/s now, and jobs take it for 1,000 MB/s" in finding.found
    assert "GEARSHIFT_CALIBRATE=force" in finding.todo


def test_slow_ranks():
    fine = {rank: Pace(1e11, 5e9) for rank in range(4)}
    assert [finding.level for finding in judge.judge_paces(fine, NAMES)] == ["ok"]
    (finding,) = judge.judge_paces({**fine, 2: Pace(4e10, 5e9)}, NAMES)
    assert "rank 2 on h2 multiplies matrices 2.5 times slower" in finding.found
    (finding,) = judge.judge_paces({0: Pace(1e11, 5e9), 1: Pace(1e11, 1e9)}, NAMES)
    assert "rank 1 on h1 copies memory 5.0 times slower" in finding.found
    assert judge.judge_paces({0: Pace(1e11, 5e9)}, NAMES)[0].level == "ok"


def test_who_is_missing():
    environment = ProcessEnvironment(
        world_size=4, local_world_size=2, nnodes=2, rdzv="tcp://h0:29400", timeout=5
    )
    here = [process(0, "h0", node=0), process(1, "h0", node=0)]
    roll = meeting.Roll(told={0: {}, 1: {}}, missing=[2, 3])
    (finding,) = together.absence(roll, here, environment)
    assert finding.level == "problem"
    assert "ranks 2, 3 of 4 did not come to tcp://h0:29400 (node 1)" in finding.found
    assert "there: ranks 0, 1 on h0" in finding.found
    assert together.absence(meeting.Roll(told={0: {}}), here[:1], environment) == []
    lost = meeting.Roll(missing=[3], lost="3 exit code 1 (pid 7)")
    (finding,) = together.absence(lost, here, environment)
    assert "rank 3 has ended: exit code 1 (pid 7)" in finding.found


@pytest.mark.parametrize(
    ("code", "text", "topic", "said"),
    [
        ("unauthenticated", "the token differs", "token", "same GEARSHIFT_TOKEN"),
        ("mismatch", "protocol version differs", "versions", "one version"),
        ("timeout", "connect to 10.0.0.1:29400: Connection refused", "rendezvous", "node-rank 0"),
        ("timeout", "10.0.0.1:29400 does not answer", "rendezvous", "nc -vz 10.0.0.1 29400"),
        ("timeout", "connect: No route to host", "rendezvous", "ip route"),
        ("timeout", "cannot resolve host 'h0'", "rendezvous", "/etc/hosts"),
    ],
)
def test_why_the_rendezvous_is_not_reached(code, text, topic, said):
    environment = ProcessEnvironment(
        rank=1, world_size=2, nnodes=2, rdzv="tcp://10.0.0.1:29400", token="d" * 64
    )
    error = from_core(code, text, -1)
    assert isinstance(error, Error)
    finding = meeting.diagnose(environment, error)
    assert (finding.level, finding.topic) == ("problem", topic)
    assert text in finding.found
    assert said in finding.todo
    assert "d" * 16 not in repr(finding)


def test_a_node_rank_that_was_given_twice():
    with reserved_port() as port:
        made = ProcessEnvironment(
            world_size=2, nnodes=2, rdzv=f"tcp://127.0.0.1:{port}", token="d" * 64
        )
        first = meeting.Meeting(made, patience=0.2)
        assert first.introduce(process(0, "h0").to_json()).missing == [1]
        second = meeting.Meeting(made, patience=0.2)
        with pytest.raises(meeting.MeetingError) as caught:
            second.introduce(process(0, "h1").to_json())
    finding = caught.value.finding
    assert (finding.level, finding.topic) == ("problem", "node rank")
    assert "rank 0 is there already: h0 (10.0.0.1) has come as node 0" in finding.found
    assert "--node-rank" in finding.todo


def test_a_folder_may_have_served_a_job_before(tmp_path):
    made = ProcessEnvironment(world_size=2, rdzv=f"file://{tmp_path}", token="d" * 64)
    for _ in range(2):
        assert meeting.Meeting(made, 0.2).introduce(process(0).to_json()).missing == [1]


def test_a_rendezvous_that_rank_0_cannot_serve():
    environment = ProcessEnvironment(world_size=2, nnodes=2, rdzv="tcp://10.0.0.1:29400")
    error = from_core("timeout", "no magic", -1)
    finding = meeting.diagnose(environment, error, "Address already in use")
    assert "Address already in use" in finding.found
    assert "ss -ltn" in finding.todo
