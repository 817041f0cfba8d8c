"""Jobs on two hosts that `gearshift run` starts (see the `network` fixture)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

STEPS = 30
TIMEOUT = 3.0
SLACK = 20.0
PORT = 29400
TOKEN = "d" * 64


@pytest.fixture
def both_hosts(jobs, network):
    """Starts the launchers of a job with two ranks on each of the two hosts."""

    def start(*arguments: str, timeout: float = 30.0, first: Sequence[str] | None = None):
        """`first`: what each host calls the first one."""
        first = first or [network.address(0)] * 2
        return [
            jobs.start(
                f"host-{host}",
                *arguments,
                workers=2,
                first_rank=2 * host,
                timeout=timeout,
                within=network.enter(host),
                launcher=(
                    *("--nnodes", "2", "--node-rank", str(host)),
                    *("--rdzv", f"{first[host]}:{PORT}"),
                ),
                env={"GEARSHIFT_TOKEN": TOKEN},
            )
            for host in (0, 1)
        ]

    return start


def start_two(network, script: Path, env: dict[str, str]) -> list[subprocess.Popen[bytes]]:
    """A launcher on each host, with one rank; beside the script stands what it says."""
    launchers = []
    for host in (0, 1):
        place = ("--node-rank", str(host), "--rdzv", f"{network.address(0)}:{PORT}", str(script))
        command = [*network.enter(host), *LAUNCH, *place]
        with (script.parent / f"err-{host}").open("wb") as err:
            launchers.append(subprocess.Popen(command, cwd=script.parent, env=env, stderr=err))
    return launchers


def listening_addresses(pid: int) -> set[str]:
    """IPv4 addresses on which anything listens in the namespace of a process."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    addresses = {row[1].partition(":")[0] for row in rows if row[3] == "0A"}
    return {".".join(str(byte) for byte in bytes.fromhex(hexed)[::-1]) for hexed in addresses}


@pytest.mark.netns
@pytest.mark.parametrize(("strategy", "phase"), [("all_reduce",) * 2, ("switch_bsp", "server")])
def test_where_ranks_listen(both_hosts, network, strategy, phase):
    """Where the other host finds them, and nowhere else."""
    for host, job in enumerate(both_hosts("--strategy", strategy, "--step-ms", "20")):
        job.await_phase(phase, step=2)
        assert listening_addresses(job.pids[2 * host]) == {network.address(host)}


@pytest.mark.netns
@pytest.mark.parametrize("strategy", ["all_reduce", "switch_bsp"])
def test_two_hosts(both_hosts, clean, expected_result, strategy):
    first, second = both_hosts("--strategy", strategy, "--steps", str(STEPS))
    for job in (first, second):
        assert job.finish() == 0, job.err
        clean(job)
    assert first.result() == pytest.approx(expected_result(4, STEPS), rel=1e-9, abs=1e-12)


@pytest.mark.netns
def test_two_hosts_with_addresses_of_one_link_alone(both_hosts, network, clean, expected_result):
    """The interface that such an address needs has another name on each host."""
    network.lay_cable()
    first, second = both_hosts(
        "--strategy", "bsp", "--steps", str(STEPS), first=[network.over_cable(h) for h in (0, 1)]
    )
    for job in (first, second):
        assert job.finish() == 0, job.err
        clean(job)
    assert first.result() == pytest.approx(expected_result(4, STEPS), rel=1e-9, abs=1e-12)


@pytest.mark.netns
@pytest.mark.parametrize("strategy", ["all_reduce", "asp"])
def test_pulled_cable(both_hosts, network, jobs, clean, strategy):
    """Either side loses the other: all end by themselves and name a rank of the other side."""
    both = both_hosts("--strategy", strategy, "--step-ms", "20", timeout=TIMEOUT)
    for job in both:
        job.await_phase("all_reduce", "server", step=5)
    network.pull_cable()
    for job in both:
        job.hit_at = time.monotonic()
    jobs.observe(both)
    for host, job in enumerate(both):
        assert job.process.returncode == 75, job.err
        assert "ended by the launcher" not in job.err, job.err
        assert max(job.ends.values()) < 2 * TIMEOUT + SLACK, job.err
        far = "[01]" if host == 1 else "[23]"
        for rank in job.ranks:
            said = job.words_of(rank)
            assert job.lost_in(said, far), said
        clean(job)


@pytest.mark.netns
def test_killed_rank_on_the_other_host(both_hosts, jobs, clean):
    """Every rank on both hosts names it, and both launchers fail."""
    both = both_hosts("--step-ms", "20")
    for job in both:
        job.await_phase("all_reduce", step=5)
    first, second = both
    second.hit(3, 9)
    first.hit_at = second.hit_at
    jobs.observe(both)
    assert first.process.returncode == 75, first.err
    assert second.process.returncode == 128 + 9, second.err
    assert "rank 3 failed first: killed by SIGKILL" in second.err
    for job in both:
        for rank in job.ranks:
            assert rank == 3 or job.lost_in(job.words_of(rank), "3"), job.err
        clean(job)


@pytest.mark.netns
def test_a_launcher_that_is_asked_to_end_before_its_rank_has_come(network, clean_env, tmp_path):
    """The other host is told at once, and does not wait ten timeouts."""
    script = tmp_path / "train.py"
    script.write_text("""
import os, time
if os.environ["GEARSHIFT_RANK"] == "1":
    open("late", "w").close()
    time.sleep(600)
import gearshift as gs
gs.init()
""")
    env = clean_env({"GEARSHIFT_TOKEN": TOKEN, "GEARSHIFT_LOG": "debug"})
    first, second = launchers = start_two(network, script, env)
    try:
        deadline = time.monotonic() + 60
        came = "came to the rendezvous"
        while not ((tmp_path / "late").exists() and came in (tmp_path / "err-0").read_text()):
            assert time.monotonic() < deadline, (tmp_path / "err-0").read_text()
            time.sleep(0.05)
        second.terminate()
        assert second.wait(60) == 128 + 15
        assert first.wait(60) == 75
        assert "rank 1 is lost before all have come" in (tmp_path / "err-0").read_text()
    finally:
        for launcher in launchers:
            launcher.kill()


@pytest.mark.netns
def test_a_rank_0_that_ends_before_it_has_come(network, clean_env, tmp_path):
    """It would have served the rendezvous, which the other host looks for meanwhile."""
    script = tmp_path / "train.py"
    script.write_text("""
import os, sys, time
if os.environ["GEARSHIFT_RANK"] == "0":
    while not os.path.exists("here"):
        time.sleep(0.05)
    sys.exit(9)
import gearshift as gs
open("here", "w").close()
gs.init()
""")
    env = clean_env({"GEARSHIFT_TOKEN": TOKEN})
    first, second = launchers = start_two(network, script, env)
    try:
        assert first.wait(90) == 9, (tmp_path / "err-0").read_text()
        assert second.wait(90) == 75, (tmp_path / "err-1").read_text()
        said = "rank 0 is lost before all have come"
        assert said in (tmp_path / "err-1").read_text()
    finally:
        for launcher in launchers:
            launcher.kill()


def run(*command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False)


LAUNCH = (sys.executable, "-m", "gearshift.cli", "run", "-n", "1", "--nnodes", "2")


def test_no_token(toy_trainer, clean_env):
    rdzv = ("--rdzv", f"10.77.0.2:{PORT}")
    ended = run(*LAUNCH, *rdzv, "--", str(toy_trainer), env=clean_env())
    assert ended.returncode == 2
    assert "GEARSHIFT_TOKEN=$(openssl rand -hex 32)" in ended.stderr


def test_loopback_rendezvous(toy_trainer, clean_env):
    """Neither the launcher nor a process that another launcher started takes it."""
    rdzv = ("--rdzv", f"localhost:{PORT}")
    env = clean_env({"GEARSHIFT_TOKEN": TOKEN})
    ended = run(*LAUNCH, *rdzv, "--", str(toy_trainer), env=env)
    assert ended.returncode == 2
    assert "'localhost' resolves to" in ended.stderr
    assert "which other nodes cannot reach" in ended.stderr
    env |= {
        "GEARSHIFT_RANK": "1",
        "GEARSHIFT_WORLD_SIZE": "2",
        "GEARSHIFT_NNODES": "2",
        "GEARSHIFT_RDZV": f"tcp://localhost:{PORT}",
    }
    ended = run(str(toy_trainer), env=env)
    assert ended.returncode == 1
    assert "'localhost' resolves to this machine's loopback address" in ended.stderr
