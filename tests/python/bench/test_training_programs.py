"""The measured programs of bench/training and bench/server, on models of a few elements."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from gearshift_testing.jobs import Job
from gearshift_testing.ports import reserved_port
from gearshift_testing.template import Place, template

from gearshift.bench import training

BENCH = Path(__file__).parents[3] / "bench"
STEP = str(BENCH / "training" / "step.py")
PUSH_PULL = str(BENCH / "server" / "push_pull.py")
TORCH_RPC = str(BENCH / "server" / "torch_rpc.py")


def ours(arguments: list[str], servers: int = 0) -> dict[str, Any]:
    """The report of a program on two gearshift workers."""
    with Job(arguments, 2, servers, forked=True) as job:
        finished = job.wait(120)
    assert [process.returncode for process in finished] == [0] * len(finished), finished[0].stderr
    return report_in(finished[0].stdout)


def torchrun(arguments: list[str], ranks: int, servers: int = 0) -> dict[str, Any]:
    """The report of a program that torchrun starts."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, f"--nproc-per-node={ranks}", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GEARSHIFT_SERVERS": str(servers)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return report_in(done.stdout)


def peers(arguments: list[str], ranks: int, servers: int = 0) -> dict[str, Any]:
    """The report of a program whose processes find what torchrun tells them, but are forks."""
    with reserved_port() as port, tempfile.TemporaryDirectory() as folder:
        places = [
            Place(
                {
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(ranks),
                    "GEARSHIFT_SERVERS": str(servers),
                },
                Path(folder, f"{rank}.out"),
                Path(folder, f"{rank}.err"),
            )
            for rank in range(ranks)
        ]
        forks = template().start(arguments, places, Path(folder))
        try:
            codes = [fork.wait(120) for fork in forks]
        finally:
            for fork in forks:
                fork.send_signal(signal.SIGKILL)
        assert codes == [0] * ranks, "\n".join(place.err.read_text() for place in places)
        return report_in("".join(place.out.read_text() for place in places))


def report_in(output: str) -> dict[str, Any]:
    """The last line that is one."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    assert lines, output
    return json.loads(lines[-1])


def check(report: dict[str, Any], steps: int) -> None:
    """What every report says."""
    assert report["verified"], report
    assert len(report["seconds"]) == steps
    assert all(seconds > 0 for seconds in report["seconds"])


def test_our_training_steps_equal_one_process() -> None:
    report = ours([STEP, "side=gearshift", "model=tiny", "steps=2", "check=2"])
    check(report, 2)
    assert 0 <= report["hidden_share"] <= 1
    assert 0 < report["unique_bytes"] <= report["pss_bytes"]


def test_our_training_steps_with_rounded_gradients() -> None:
    strategy = "strategy=all_reduce(compression=bf16)"
    report = ours([STEP, strategy, "rounded=1", "model=tiny", "steps=2", "check=2"])
    check(report, 2)
    assert 1e-5 < report["distance"] < 1e-2


@pytest.mark.parametrize("side", ["ddp", "local"])
def test_training_steps_of_the_peers(side: str) -> None:
    check(peers([STEP, f"side={side}", "model=tiny", "steps=2"], 2), 2)


def test_training_steps_of_ddp_with_rounded_gradients() -> None:
    arguments = [STEP, "side=ddp", "compression=fp16", "rounded=1", "model=tiny", "steps=2"]
    report = peers(arguments, 2)
    check(report, 2)
    assert 1e-6 < report["distance"] < 1e-2


def test_our_training_steps_under_local_sgd() -> None:
    arguments = ["strategy=local_sgd(2)", "every=2", "model=tiny", "steps=4", "check=3"]
    report = ours([STEP, *arguments])
    check(report, 2)
    assert report["distance"] < 1e-5
    assert report["operations"] == 4 + 3 + 4 + 1, "checked, warmed up, timed, and one for memory"
    every_step = ours([STEP, *arguments[1:]])
    check(every_step, 2)
    assert report["bytes_sent"] == every_step["bytes_sent"] / 2, "a round in two steps"


def test_training_steps_of_pytorchs_averager() -> None:
    arguments = [STEP, "side=averager", "every=3", "model=tiny", "steps=6", "check=4"]
    report = peers(arguments, 2)
    check(report, 2)
    assert report["distance"] < 1e-5
    assert report["operations"] == 6 + 3 + 6 + 1, "checked, warmed up, timed, and one for memory"


def test_training_steps_of_ddp_over_our_backend() -> None:
    arguments = [STEP, "side=ddp", "backend=gearshift", "model=tiny", "steps=4", "check=3"]
    report = torchrun(arguments, 2)
    check(report, 4)
    assert report["distance"] < 1e-5


def test_times_under_local_sgd_have_a_round_in_each() -> None:
    found = [s for s in training.settings() if s.name.startswith("training/local/")]
    assert found
    for setting in found:
        assert all("every=8" in side.arguments for side in setting.sides)
        assert "strategy=local_sgd(8)" in setting.sides[0].arguments
        for order in (point.order for point in setting.points):
            assert int(order["steps"]) % 8 == 0


def test_steps_that_are_no_whole_blocks_are_refused() -> None:
    with Job([STEP, "model=tiny", "every=2", "steps=3", "check=1"], 1, forked=True) as job:
        (finished,) = job.wait(120)
    assert finished.returncode != 0
    assert "steps=3 is not a multiple of every=2" in finished.stderr


def test_freed_memory_counts_no_more_when_it_is_given_back() -> None:
    program = (
        "from memory import give_back, resident\n"
        "blocks = [bytes(1 << 16) for _ in range(1000)]\n"
        "last = bytes(1 << 16)\n"  # behind which nothing is returned by itself
        "blocks.clear()\n"
        "freed = resident()['unique']\n"
        "give_back()\n"
        "print(freed - resident()['unique'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(BENCH / "training")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(done.stdout) > 30_000_000


@pytest.mark.parametrize("consistency", ["bsp", "asp"])
@pytest.mark.parametrize("servers", [0, 1])
def test_our_push_and_pull(consistency: str, servers: int) -> None:
    report = ours([PUSH_PULL, "bytes=4000", f"consistency={consistency}", "steps=3"], servers)
    check(report, 3)
    assert report["link_bytes"] == (8000 if servers else 4000)


@pytest.mark.parametrize(("consistency", "servers"), [("bsp", 0), ("asp", 1)])
def test_push_and_pull_of_the_peer(consistency: str, servers: int) -> None:
    arguments = [TORCH_RPC, "bytes=4000", f"consistency={consistency}", "steps=3"]
    check(peers(arguments, 2 + servers, servers), 3)
