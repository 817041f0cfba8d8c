"""Hosts out of network namespaces, and a case across them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gearshift.bench import across_hosts, hosts, place
from gearshift.bench.case import OURS, Network, Point, Setting
from gearshift.bench.display import PlainDisplay
from gearshift.bench.driver import Bench, BenchOptions

MIB = 1 << 20


@pytest.fixture
def made():
    try:
        with hosts.hosts(3, mbit=1000, prefix=f"gsbt{os.getpid()}") as result:
            yield result
    except hosts.NamespaceError as error:
        pytest.skip(str(error))


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.netns
def test_hosts_reach_each_other_and_count_bytes(made):
    before = made.sent_bytes()
    server = (
        "import socket; s = socket.create_server(('', 7000)); c, _ = s.accept()\n"
        "while c.recv(99999): pass"
    )
    client = (
        "import socket, time\n"
        "for attempt in range(100):\n"
        f"    try: c = socket.create_connection(('{made.address(2)}', 7000)); break\n"
        "    except OSError: time.sleep(0.1)\n"
        f"c.sendall(bytes({MIB}))"
    )
    listening = subprocess.Popen([*made.enter(2), sys.executable, "-c", server])
    run(*made.enter(0), sys.executable, "-c", client)
    assert listening.wait(30) == 0
    sent = made.sent_bytes() - before
    assert MIB < sent < 1.2 * MIB


@pytest.mark.netns
def test_every_link_is_shaped_in_both_directions(made):
    for name in made.names:
        shown = run("tc", "-n", name, "qdisc", "show", "dev", "eth0")
        assert "rate 1Gbit" in shown
        assert "peakrate 1040Mbit" in shown
    switch = made.names[0].replace("-h0", "-sw")
    shown = run("tc", "-n", switch, "qdisc", "show")
    assert shown.count("rate 1Gbit") == len(made.names)
    assert shown.count("peakrate 1040Mbit") == len(made.names)


@pytest.mark.netns
def test_nothing_is_left(made):
    names = list(made.names)
    made.remove()
    left = run("ip", "netns", "list")
    assert not [name for name in names if name in left]


def test_where_hosts_cannot_be_made(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        pytest.raises(hosts.NamespaceError, match="ip is not installed"),
        hosts.hosts(2),
    ):
        pass


def test_cases_are_skipped_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    setting = across_hosts.settings()[0]
    display = PlainDisplay(Console(quiet=True))
    summary = Bench(BenchOptions(tmp_path, quick=True), display).run([setting])
    assert len(summary["cases"]) == len(setting.points)
    assert all("not installed" in case["skipped"][OURS] for case in summary["cases"])


def measure(network: Network, size: int, out: Path) -> dict:
    """What a short case of four ranks says."""
    if not (place.binary_folder() / "all_reduce").exists():
        pytest.fail(f"{place.binary_folder()} has no programs: run `make build`")
    point = Point("size", {"bytes": size}, size, rounds=2)
    sides = (across_hosts.GEARSHIFT,)
    setting = Setting("test", "test", 4, sides, (point,), network, kind="all_reduce")
    display = PlainDisplay(Console(quiet=True))
    (case,) = Bench(BenchOptions(out, quick=True), display).run([setting])["cases"]
    if OURS in case["skipped"]:
        pytest.skip(case["skipped"][OURS])
    assert case["sides"][OURS]["verified"], case
    return case


@pytest.mark.netns
def test_case_across_hosts(tmp_path):
    case = measure(Network(2, 1000.0, "cyclic"), 65536, tmp_path)
    between = case["between_hosts"]
    assert between["least"] == 2 * 65536
    assert between["flat_ring"] == 4 * 1.5 * 65536
    assert between["sent"][OURS]["median"] > 0.9 * between["least"]
    assert case["bound"]["seconds"] > 65536 / 119.6e6
    assert 0 < case["half_round_trip"] < 1


@pytest.mark.netns
def test_case_across_sites(tmp_path):
    """Each site sends the array once, where a ring of four ranks sends it one and a half times."""
    case = measure(Network(4, 1000.0, sites=2, uplink_mbit=20.0), MIB // 8, tmp_path)
    between = case["between_sites"]
    assert between["least"] == MIB / 4
    assert between["least"] < between["sent"][OURS]["median"] < 1.25 * between["least"]
    assert case["bound"]["seconds"] == pytest.approx(MIB / 8 / 2.392e6, rel=1e-3)


def test_bounds():
    """The numbers that are known for this kind of link."""
    assert across_hosts.payload_rate(1000) == pytest.approx(119.6e6, rel=1e-3)
    network = Network(4, 1000.0)
    assert across_hosts.bound_seconds(64 * MIB, network, 1e-4) == pytest.approx(0.842, rel=1e-3)
    small = across_hosts.bound_seconds(65536, network, 1e-4)
    assert small == pytest.approx(0.822e-3 + 2e-4, rel=1e-2)
    assert across_hosts.bound_seconds(64 * MIB, Network(4), 1e-4) is None
    sites = Network(6, 1000.0, sites=2, uplink_mbit=100.0)
    assert across_hosts.bound_seconds(16 * MIB, sites, 1e-4) == pytest.approx(1.403, rel=1e-3)


def test_bytes_of_a_flat_ring():
    """Links of the ring that leave a host: two when neighbours share hosts, else all four."""
    for placement, links in (("block", 2), ("cyclic", 4)):
        network = Network(2, 1000.0, placement)
        assert across_hosts.flat_ring_bytes(MIB, network, 4) == links * 1.5 * MIB
        assert across_hosts.least_bytes(MIB, network) == 2 * MIB


HOLDING = """
import sys, time
from gearshift.bench.hosts import hosts
with hosts(2, prefix=sys.argv[1]):
    print("made", flush=True)
    time.sleep(100)
"""


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_after_a_signal(made, number):
    """Nor when a second one comes while hosts are removed."""
    prefix = f"gsbs{os.getpid()}"
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLDING, prefix], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert holding.stdout.readline() == b"made\n"
    assert prefix in run("ip", "netns", "list")
    holding.send_signal(number)
    while Path(f"/run/netns/{prefix}-h0").exists() and holding.poll() is None:
        pass
    holding.send_signal(number)
    holding.wait(30)
    assert prefix not in run("ip", "netns", "list")
