"""Ranks may have different numbers of samples (see uneven_cases.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid, run_script

CASES = Path(__file__).with_name("uneven_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_uneven(world: int, name: str) -> None:
    check(CASES, name, world)


def test_who_is_out_of_batches_is_told_that_the_rates_of_others_differ() -> None:
    script = """
import os, torch, gearshift as gs, gearshift.torch as gst
gs.init()
model = torch.nn.Linear(10, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
gst.distribute(model, optimizer)
try:
    with gst.join(model):
        for k in range(2 if gs.rank() == 2 else 8):
            if k > 3:
                optimizer.param_groups[0]["lr"] = 0.1 / (1 + gs.rank())
            optimizer.zero_grad()
            model(torch.ones(4, 10)).square().mean().backward()
            optimizer.step()
except gs.MismatchError as error:
    os._exit(0 if "with different optimizer settings" in str(error) else 3)
"""
    for process in run_script(script, 3, forked=True):
        assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("strategy", ["ps:bsp", "ps:ssp(1)", "ps:buffered(3, bound=1)"])
@pytest.mark.parametrize("servers", [0, 1])
def test_who_ends_without_joining_holds_up_nobody(strategy: str, servers: int) -> None:
    """Its shard serves on; under BSP the others average without it, and it is told so."""
    script = f"""
import torch, gearshift as gs, gearshift.torch as gst
gs.init(timeout=60)
torch.manual_seed(0)
model = torch.nn.Linear(5, 1).double()
alone = torch.nn.Linear(5, 1).double()
alone.load_state_dict(model.state_dict())
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
reference = torch.optim.SGD(alone.parameters(), lr=0.05)
data = torch.randn(3, 9, 4, 5, dtype=torch.float64)
gst.distribute(model, optimizer, {strategy!r})
for step in range(4 if gs.rank() == 1 else 9):
    optimizer.zero_grad()
    model(data[gs.rank(), step]).square().mean().backward()
    optimizer.step()
    ranks = [r for r in range(3) if r != 1 or step < 4]
    reference.zero_grad()
    alone(data[ranks, step].reshape(-1, 5)).square().mean().backward()
    reference.step()
if {strategy!r} == "ps:bsp":
    torch.testing.assert_close(model.weight, alone.weight, rtol=1e-12, atol=0)
print(gs.rank(), "trained")
"""
    processes = run_script(script, 3, servers, forked=True)
    for rank, process in enumerate(processes):
        assert process.returncode == 0, process.stderr
        assert (f"{rank} trained" in process.stdout) == (rank < 3)
        early = "ended the training after step 4" in process.stderr
        assert early == (rank == 1 and strategy == "ps:bsp"), process.stderr


def test_who_ends_without_joining_cannot_switch() -> None:
    script = """
import torch, gearshift as gs, gearshift.torch as gst
gs.init(timeout=60)
model = torch.nn.Linear(5, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
gst.distribute(model, optimizer, "switch(start=ps:bsp, then=all_reduce, at=6)")
for _ in range(4 if gs.rank() == 1 else 9):
    optimizer.zero_grad()
    model(torch.ones(2, 5)).square().mean().backward()
    optimizer.step()
"""
    processes = run_script(script, 3, forked=True)
    told = "rank 1 has ended the training of this model, rank 0 is at the end of an epoch"
    for process in (processes[0], processes[2]):
        assert process.returncode == 1
        assert told in process.stderr, process.stderr
