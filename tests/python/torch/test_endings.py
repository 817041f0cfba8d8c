"""How training ends when something goes wrong, and rendezvous under torchrun."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from gearshift_testing import run_script
from gearshift_testing.ports import reserved_port

from gearshift.launch import EXIT_PEER_LOST
from gearshift.launch.environment import ProcessEnvironment

DIVERGING = """
import itertools, torch, gearshift as gs, gearshift.torch as gst
gs.init()
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer = gst.distribute(model, optimizer, "ps:asp")
for step in itertools.count():
    loss = model(torch.ones(2, 3)).square().mean()
    if step == 5 and gs.rank() == 1:
        loss = loss * float("nan")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step(loss=loss)
"""


def test_a_loss_that_is_not_finite_ends_an_asynchronous_job() -> None:
    for process in run_script(DIVERGING, 2, forked=True):
        assert process.returncode in (1, EXIT_PEER_LOST)
        assert "gearshift.errors.Diverged" in process.stderr, process.stderr
        assert "not finite" in process.stderr


def test_a_loss_that_is_not_finite_ends_a_job_of_one() -> None:
    script = DIVERGING.replace("gs.rank() == 1", "True")
    (process,) = run_script(script, 1, forked=True)
    assert process.returncode == 1
    assert "gearshift.errors.Diverged" in process.stderr, process.stderr
    assert "worker 0, step 6" in process.stderr


DYING = """
import itertools, torch, gearshift as gs, gearshift.torch as gst
gs.init()
model = torch.nn.Linear(3, 1)
model, optimizer = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1), STRATEGY)
for step in itertools.count():
    if step == 5 and gs.rank() == 1:
        raise ValueError("boom")
    optimizer.zero_grad()
    model(torch.ones(2, 3)).mean().backward()
    optimizer.step()
"""


@pytest.mark.parametrize("strategy", ["all_reduce", "ps:bsp", "ps:asp"])
def test_an_exception_in_the_loop_reaches_the_others_as_peer_lost(strategy: str) -> None:
    first, culprit = run_script(DYING.replace("STRATEGY", repr(strategy)), 2, forked=True)
    assert culprit.returncode == 1
    assert first.returncode == EXIT_PEER_LOST, first.stderr
    assert "gearshift.errors.PeerLost" in first.stderr
    assert "ValueError: boom" in first.stderr


def test_a_policy_that_raises_ends_the_job_with_its_error() -> None:
    script = r"""
import torch, gearshift as gs, gearshift.torch as gst
gs.init()
def policy(metrics):
    raise ValueError("nonsense in caf\udce9")  # of a file whose name is no text
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer = gst.distribute(model, optimizer, gs.StrategySwitch(policy=policy))
for step in range(10):
    optimizer.zero_grad()
    model(torch.ones(2, 3)).mean().backward()
    optimizer.step()
"""
    for process in run_script(script, 2, forked=True):
        assert process.returncode != 0
        assert "policy" in process.stderr
        assert "nonsense" in process.stderr


@pytest.mark.parametrize("release", ["", "gst.release(model)"])
def test_a_fast_worker_waits_at_the_end_for_slow_ones(release: str) -> None:
    """Asynchronous workers may be further apart than the timeout."""
    script = f"""
import time, torch, gearshift as gs, gearshift.torch as gst
gs.init(timeout=4)
model = torch.nn.Linear(3, 1)
model, optimizer = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1), "ps:asp")
for step in range(16):
    time.sleep(0.3 * gs.rank())
    optimizer.zero_grad()
    model(torch.ones(2, 3)).square().mean().backward()
    optimizer.step()
{release}
"""
    for process in run_script(script, 2, forked=True):
        assert process.returncode == 0, process.stderr


def test_released_models_are_garbage_in_forked_children_too() -> None:
    """A DataLoader's worker may collect before anybody has noticed that it is one."""
    script = """
import gc, os
os.register_at_fork(after_in_child=gc.collect)
import torch, gearshift as gs, gearshift.torch as gst
gs.init()
gc.disable()
for _ in range(2):
    model = torch.nn.Linear(3, 1)
    model, optimizer = gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model(torch.ones(2, 3)).mean().backward()
    optimizer.step()
    gst.release(model)
    del model, optimizer
child = os.fork()
if child == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    for process in run_script(script, 2):
        assert process.returncode == 0, process.stderr


def test_a_script_run_again_by_multiprocessing_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("""
import multiprocessing, gearshift as gs
gs.init()
child = multiprocessing.get_context("spawn").Process(target=print)
child.start()
child.join()
raise SystemExit(0 if child.exitcode else 3)
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'if __name__ == "__main__":' in done.stderr
    assert "gs.init() was called in a process that multiprocessing starts" in done.stderr


def test_torchrun_on_several_hosts_meets_through_its_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gearshift.torch._torchrun import exchange_address

    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    found: dict[int, str] = {}

    def exchange(rank: int) -> None:
        place = ProcessEnvironment(rank=rank, world_size=3, launcher="torchrun", timeout=30)
        found[rank] = exchange_address(place)

    threads = [threading.Thread(target=exchange, args=(rank,)) for rank in (2, 1, 0)]
    with reserved_port() as port:
        monkeypatch.setenv("MASTER_PORT", str(port))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found[0].startswith("tcp://127.0.0.1:")
    assert found == dict.fromkeys(range(3), found[0])


def test_servers_end_with_gradients_on_their_way() -> None:
    """Of backward passes that no step followed; the next model's servers must not see them."""
    script = """
import torch, gearshift as gs, gearshift.torch as gst
gs.init(timeout=10)
torch.manual_seed(0)
for _ in range(CYCLES):
    model = torch.nn.Sequential(*(torch.nn.Linear(200, 200) for _ in range(10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model, optimizer = gst.distribute(model, optimizer, "ps:asp")
    for step in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 200)).square().mean().backward()
        if step < 2:
            optimizer.step()
    gst.release(model)
    gs.barrier()
"""
    for transports, cycles in (("shm", 15), ("tcp", 3)):
        text = script.replace("CYCLES", str(cycles))
        extra = {"GEARSHIFT_TRANSPORTS": transports}
        for process in run_script(text, 2, extra=extra, forked=True):
            assert process.returncode == 0, process.stderr


WIDE = """
import torch

class Wide(torch.optim.Optimizer):
    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                sum_ = self.state[p].setdefault("sum", torch.zeros_like(p, dtype=torch.float32))
                sum_.mul_(0.9).add_(p.grad.float())
                p.sub_(group["lr"] * sum_.to(p.dtype))
"""


def test_state_that_servers_round_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(WIDE)
    script = f"""
import sys, torch, gearshift as gs, gearshift.torch as gst
sys.path.insert(0, {str(tmp_path)!r})
from wide import Wide
gs.init()
torch.manual_seed(0)
model = torch.nn.Linear(64, 1).bfloat16()
strategy = gs.StrategySwitch(then=gs.ParameterServer(), policy=gs.At(step=3))
model, optimizer = gst.distribute(model, Wide(model.parameters()), strategy, elementwise=True)
for _ in range(5):
    optimizer.zero_grad()
    model(torch.randn(8, 64).bfloat16()).square().mean().backward()
    optimizer.step()
"""
    first, second = run_script(script, 2, forked=True)
    assert first.stderr.count("'sum' is rounded from float32 to bfloat16") == 1, first.stderr
    assert "rounded" not in second.stderr
