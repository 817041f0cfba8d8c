"""A job on two hosts that torchrun starts: the ranks find each other through torchrun's store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from gearshift_testing.network import Network

import gearshift.launch

PACKAGE_ROOT = Path(gearshift.launch.__file__).parents[2]
SUPPORT = Path(__file__).parents[1] / "support"
PORT = 29500
PATIENCE = 240.0
"""Seconds until a job is taken for hung: six processes import torch, maybe on a busy machine."""

TRAIN = """
import torch, gearshift as gs, gearshift.torch as gst
from gearshift_testing import training

gs.init()
model = training.make("mlp")
adam = lambda parameters: torch.optim.Adam(parameters, lr=3e-3)
alone = training.reference(
    model, adam, lambda m, o: training.train(m, o, training.batches(8), alone=True)
)
strategy = gs.StrategySwitch(then=gs.ParameterServer(), policy=gs.At(step=4))
model, optimizer = gst.distribute(model, adam(model.parameters()), strategy)
training.train(model, optimizer, training.batches(8))
switches = [s["step"] for s in gst.stats(model)["switches"]]
assert training.difference(model, alone) < 1e-12, training.difference(model, alone)
training.assert_equal_everywhere(model)
gs.shutdown()
gs.init()  # again, at the same place
assert gs.all_reduce(torch.ones(1)).item() == gs.world_size()
print(f"rank {gs.rank()} of {gs.world_size()} switched after {switches}", flush=True)
"""

FAILING_ONCE = """
import os, numpy as np, gearshift as gs

if os.environ["RANK"] == "1" and not os.path.exists("failed"):
    open("failed", "w").close()
    raise SystemExit("the first attempt fails")
gs.init()
print(f"rank {gs.rank()} of {gs.world_size()} sums {gs.all_reduce(np.ones(1))[0]:g}", flush=True)
"""

ENDPOINT = f"{Network.address(0)}:{PORT}"
STATIC = ("--master-addr", Network.address(0), "--master-port", str(PORT))
DYNAMIC = ("--rdzv-backend", "c10d", "--rdzv-id", "job", "--rdzv-endpoint", ENDPOINT)


@dataclass
class Agents:
    """One torchrun on each host, with its output in a file."""

    folder: Path
    network: Network
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, per_host: int, *rendezvous: str, token: str | None, script: str = TRAIN
    ) -> None:
        (self.folder / "train.py").write_text(script)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")}
        env = {**kept, "PYTHONPATH": f"{PACKAGE_ROOT}:{SUPPORT}", "OMP_NUM_THREADS": "1"}
        if token is not None:
            env["GEARSHIFT_TOKEN"] = token
        for host in (0, 1):
            command = [
                *self.network.enter(host),
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                *("--nproc-per-node", str(per_host), "--local-addr", self.network.address(host)),
                *rendezvous,
                *self.place_of(host, rendezvous),
                "train.py",
            ]
            with (self.folder / f"host-{host}").open("wb") as log:
                process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    @staticmethod
    def place_of(host: int, rendezvous: tuple[str, ...]) -> tuple[str, str]:
        """Both hosts have the same name, by which torchrun would tell who serves its store."""
        if rendezvous[: len(DYNAMIC)] == DYNAMIC:
            return "--rdzv-conf", f"is_host={host == 0}"
        return "--node-rank", str(host)

    def finish(self) -> list[int]:
        """Wait for both; their exit codes."""
        deadline = time.monotonic() + PATIENCE
        while any(process.poll() is None for process in self.processes):
            assert time.monotonic() < deadline, f"the job hangs\n{self.output}"
            time.sleep(0.05)
        return [process.returncode for process in self.processes]

    def end(self) -> None:
        """SIGTERM first: torchrun then ends its workers."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()

    @property
    def output(self) -> str:
        return "".join((self.folder / f"host-{h}").read_text(errors="replace") for h in (0, 1))


@pytest.fixture
def agents(tmp_path, network) -> Iterator[Agents]:
    made = Agents(tmp_path, network)
    yield made
    made.end()


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.parametrize(
    ("per_host", "rendezvous"),
    [pytest.param(2, STATIC, id="static"), pytest.param(1, DYNAMIC, id="c10d")],
)
def test_training(agents, per_host, rendezvous):
    """As one process, with a switch, over torchrun's own ways to find the first host."""
    agents.start(per_host, *rendezvous, token="f" * 64)
    assert agents.finish() == [0, 0], agents.output
    for rank in range(2 * per_host):
        line = f"rank {rank} of {2 * per_host} switched after [4]"
        assert line in agents.output, agents.output


@pytest.mark.netns
@pytest.mark.slow
def test_restart(agents):
    """After a failure torchrun keeps its store, and counts the attempts on each host by itself."""
    options = (*DYNAMIC, "--max-restarts", "1")
    agents.start(1, *options, token="f" * 64, script=FAILING_ONCE)
    assert agents.finish() == [0, 0], agents.output
    for rank in (0, 1):
        assert f"rank {rank} of 2 sums 2" in agents.output, agents.output


@pytest.mark.netns
@pytest.mark.slow
def test_no_token(agents):
    """Refused on both hosts, with what to do."""
    agents.start(1, *STATIC, token=None, script="import gearshift as gs\ngs.init()\n")
    assert 0 not in agents.finish(), agents.output
    assert agents.output.count("export GEARSHIFT_TOKEN=$(openssl rand -hex 32)") >= 2
