"""Simulations from Python, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gearshift as gs
from gearshift.sim import extension
from gearshift.sim.inputs import read_cluster, read_workload
from gearshift.sim.messages import Fidelity, Request
from gearshift.sim.processes import Pool
from gearshift.sim.simulation import make_request
from gearshift.sim.workload import Workload

needs_simulator = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without SimGrid"
)

PATIENCE = 60.0
"""Seconds until a test takes a process for hung."""
CLUSTER: dict[str, Any] = {
    "name": "four",
    "hosts": [{"name": "n", "count": 4, "bandwidth": "100 Mbit/s", "latency": "50 us"}],
}
WORKLOAD = """
name = "toy"
batch_size = 8
forward = "10 ms"
backward = "20 ms"
optimizer = "1 ms"
parameters = [{ name = "a", shape = [256, 256] }, { name = "b", shape = [256] }]
"""


def test_without_the_extension_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gearshift._sim", None)
    monkeypatch.delattr(gs, "_sim", raising=False)
    with pytest.raises(gs.Unsupported, match="apt install libsimgrid-dev"):
        extension.load()


@needs_simulator
def test_one_worker_alone_only_computes() -> None:
    cluster = {"hosts": [{"name": "n", "speed": 0.5}]}
    result = gs.simulate(cluster, WORKLOAD, "all_reduce", steps=5)
    assert result.step_seconds.mean == pytest.approx(2 * 0.030 + 0.001, rel=0.02)
    assert result.throughput == pytest.approx(8 / result.step_seconds.mean)
    assert result.waiting.exposed == pytest.approx(0)
    assert (result.workers, result.workload, result.cluster) == (1, "toy", "cluster")


@needs_simulator
def test_every_way_to_give_the_files_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(WORKLOAD, encoding="utf-8")
    steps: list[int] = []
    first = gs.simulate(CLUSTER, tmp_path / "w.toml", "ps:bsp", steps=6, progress=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6]
    loaded = Workload.load(tmp_path / "w.toml")
    for workload in (str(tmp_path / "w.toml"), WORKLOAD, loaded):
        again = gs.simulate(CLUSTER, workload, gs.ParameterServer(), steps=6)
        assert again.raw["workers"] == first.raw["workers"]
    assert first.staleness == {0: 24}
    assert first.efficiency < 1


@needs_simulator
def test_a_straggler_is_waited_for_only_by_synchronous_strategies() -> None:
    cluster = CLUSTER | {"stragglers": [{"host": "n-1", "factor": 3.0}]}
    synchronous = gs.simulate(cluster, WORKLOAD, "all_reduce", steps=8)
    # Three of four workers wait for 60 ms.
    assert synchronous.waiting.slower_workers == pytest.approx(0.045, rel=0.05)
    stale = gs.simulate(cluster, WORKLOAD, "ps:asp", steps=8, timeline=True)
    assert stale.waiting.slower_workers == 0
    assert stale.throughput > synchronous.throughput
    assert stale.raw["timeline"]
    switched = gs.simulate(cluster, WORKLOAD, "switch(at=4)", steps=8)
    assert [switch["step"] for switch in switched.switches] == [4]


@needs_simulator
def test_compressed_gradients_are_half_as_long_under_way() -> None:
    """A ring sends 2(N-1)/N of the model, workers with a shard each (N-1)/N of it both ways."""
    workload = """
        batch_size = 8
        forward = "1 ns"
        backward = "1 ns"
        parameters = [{ name = "weight", shape = [16000000] }]
    """
    narrow = {"name": "n", "count": 4, "bandwidth": "100 Mbit/s", "latency": "0 s"}
    cluster = {"hosts": [narrow]}
    for strategy, share in (("all_reduce:ring", 0.5), ("ps:bsp", 0.75)):
        whole, half = (
            gs.simulate(cluster, workload, f"{strategy}({options})", steps=4)
            for options in ("bucket_mb=1", "bucket_mb=1, compression=bf16")
        )
        sent = [sum(w["bytes_sent"] for w in r.raw["workers"]) for r in (whole, half)]
        assert sent[1] / sent[0] == pytest.approx(share, rel=2e-3)
        assert half.step_seconds.mean / whole.step_seconds.mean == pytest.approx(share, rel=0.05)


@needs_simulator
def test_commits_pass_compressed_gradients_on_their_way_to_dedicated_servers() -> None:
    """Else answers come when all have left, which takes a fifth longer than without compression."""
    parameters = ", ".join(f'{{ name = "p{i}", shape = [500000] }}' for i in range(12))
    workload = f"""
        batch_size = 8
        forward = "30 ms"
        backward = "60 ms"
        parameters = [{parameters}]
    """
    link = {"bandwidth": "1 Gbit/s", "latency": "40 us"}
    workers, servers = {"name": "w", "count": 4}, {"name": "s", "count": 2, "servers": 1}
    cluster = {"hosts": [workers | link, servers | link | {"workers": 0}]}
    for strategy in ("ps:bsp", "ps:asp"):
        whole, half = (
            gs.simulate(cluster, workload, strategy + option, steps=6).step_seconds.mean
            for option in ("", "(compression=bf16)")
        )
        assert half < 1.02 * whole, strategy


@needs_simulator
def test_a_window_does_not_span_hosts() -> None:
    """As in a real job, which refuses it; it was simulated as a ring."""
    for strategy in (
        "all_reduce:window",
        gs.StrategySwitch(gs.AllReduce("window"), policy=gs.At(5)),
    ):
        with pytest.raises(gs.Unsupported, match="workers on several hosts cannot map"):
            gs.simulate(CLUSTER, WORKLOAD, strategy)
    one = {"hosts": [{"name": "n", "workers": 4}]}
    assert gs.simulate(one, WORKLOAD, "all_reduce:window").workers == 4


@needs_simulator
def test_steps_may_take_hours() -> None:
    workload = WORKLOAD.replace("10 ms", "4 h").replace("20 ms", "1 h")
    cluster = {"hosts": [{"name": "n", "count": 3}, {"name": "slow", "speed": 0.25}]}
    result = gs.simulate(cluster, workload, "all_reduce", steps=4)
    assert result.step_seconds.mean == pytest.approx(4 * 5 * 3600, rel=1e-3)


@needs_simulator
def test_wrong_input_names_file_line_and_key(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(WORKLOAD.replace("shape = [256] ", "shape = [-1] "), "utf-8")
    with pytest.raises(gs.InvalidArgument, match=r"w\.toml:7: parameters\[1\].shape\[0\]"):
        gs.simulate(CLUSTER, tmp_path / "w.toml", "all_reduce")
    with pytest.raises(gs.InvalidArgument, match=r"<cluster>:\d+: hosts\[0\].speed"):
        gs.simulate({"hosts": [{"name": "n", "speed": -1}]}, WORKLOAD, "all_reduce")
    with pytest.raises(gs.InvalidArgument, match="shards"):
        gs.simulate(CLUSTER, WORKLOAD, "ps(shards=5)")
    with pytest.raises(gs.InvalidArgument, match="after warm-up"):
        gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=2)
    for wrong in (20.5, "20", None, 10**20):
        with pytest.raises(gs.InvalidArgument, match="steps="):
            gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=wrong)
    with pytest.raises(gs.InvalidArgument, match="seed=-1"):
        gs.simulate(CLUSTER, WORKLOAD, "all_reduce", seed=-1)
    with pytest.raises(gs.InvalidArgument, match="a policy must be a function at the top"):
        gs.simulate(CLUSTER, WORKLOAD, gs.StrategySwitch(policy=lambda metrics: True))


@needs_simulator
def test_a_process_that_breaks_down_is_an_error() -> None:
    pool = Pool()
    killer = threading.Thread(target=kill_first, args=(pool,))
    killer.start()
    with pytest.raises(gs.Error, match="killed by SIGKILL"):
        gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=10**7, every_step=True, pool=pool)
    killer.join()


def kill_first(pool: Pool) -> None:
    """Kill the pool's first process when there is one."""
    while not pool._running:
        time.sleep(0.01)
    time.sleep(0.2)
    next(iter(pool._running)).kill()


@needs_simulator
def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(WORKLOAD, encoding="utf-8")
    (tmp_path / "c.toml").write_text('[[hosts]]\nname = "n"\ncount = 4\n', encoding="utf-8")
    arguments = ["simulate", "-c", "c.toml", "-w", "w.toml", "--every-step"]
    arguments += ["--steps", "10000000"]
    command = subprocess.Popen(
        [sys.executable, "-m", "gearshift.cli", *arguments, "-s", "ps", "-s", "all_reduce"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = wait_for_children(command.pid, 2)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130
    assert "interrupted" in errors
    assert not any(Path(f"/proc/{child}").exists() for child in children)


class Interrupted(list[Request]):
    """Ctrl-C comes while these are handed to threads, once the first one has begun."""

    def __init__(self, request: Request, pool: Pool) -> None:
        super().__init__([request, request])
        self.pool = pool
        self.threads = threading.active_count()
        self.begun = False

    def __iter__(self) -> Iterator[Request]:
        yield self[0]
        if threading.active_count() > self.threads:  # they are not only looked at
            deadline = time.monotonic() + PATIENCE
            while not self.pool._running and time.monotonic() < deadline:
                time.sleep(0.01)
            self.begun = bool(self.pool._running)
            raise KeyboardInterrupt
        yield self[1]


@needs_simulator
def test_ctrl_c_while_simulations_begin_leaves_no_process() -> None:
    request = make_request(
        read_cluster(CLUSTER),
        read_workload(WORKLOAD),
        gs.AllReduce(),
        steps=10**7,
        seed=0,
        fidelity=Fidelity(every_step=True),
    )
    pool = Pool(2)
    requests = Interrupted(request, pool)
    with pytest.raises(KeyboardInterrupt):
        pool.run_all(requests, lambda number, result: None)
    assert requests.begun
    assert not pool._running


def wait_for_children(pid: int, count: int) -> list[int]:
    """The children of a process, as soon as there are so many."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        found = [int(child) for task in tasks for child in task.read_text().split()]
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"process {pid} has not started {count} others")


@needs_simulator
def test_a_simulation_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import gearshift as gs, sys\n"
        f"gs.simulate({CLUSTER!r}, {WORKLOAD!r}, 'ps', steps=10**7, every_step=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    (child,) = wait_for_children(parent.pid, 1)
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    wait_for_the_end_of(child)


@needs_simulator
def test_a_simulation_ends_with_its_parent_within_a_step(tmp_path: Path) -> None:
    script = (
        "import gearshift as gs\n"
        "cluster = {'hosts': [{'name': 'n', 'count': 128}]}\n"
        "parameters = [{'name': str(i), 'shape': [1 << 20]} for i in range(2000)]\n"
        "workload = {'forward': 1, 'backward': 2, 'parameters': parameters}\n"
        "gs.simulate(cluster, workload, 'all_reduce:ring')\n"  # a step takes minutes
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    (child,) = wait_for_children(parent.pid, 1)
    wait_until_it_simulates(child)
    time.sleep(2)
    assert alive(child)
    parent.kill()
    parent.wait()
    wait_for_the_end_of(child)


def wait_until_it_simulates(child: int) -> None:
    """By then it has asked to end with its parent, and has its request."""
    deadline = time.monotonic() + PATIENCE
    while "/_sim." not in Path(f"/proc/{child}/maps").read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_the_end_of(child: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody waits for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
