"""Losses and layers over the samples of all ranks (see together_cases.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid, run_script

CASES = Path(__file__).with_name("together_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_together(world: int, name: str) -> None:
    check(CASES, name, world)


def test_over_wires() -> None:
    for name in ("batch_normalization_over_all_ranks", "contrastive_losses_over_all_ranks"):
        check(CASES, name, 3, transports="tcp")


SCRIPT = """
import os, signal, torch, gearshift as gs, gearshift.torch as gst
from torch import nn
gs.init(timeout=2)
model = nn.Sequential(nn.Linear(4, 3), nn.SyncBatchNorm(3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
gst.distribute(model, optimizer, STRATEGY)
with gst.join(model):
    for step in range(0 if gs.rank() == 2 else 100):
        out = model(torch.randn(5, 4))
        if gs.rank() == 1 and step == 4:
            END
        every = gst.concat_all_gather(out)
        optimizer.zero_grad()
        every.square().mean().backward()
        optimizer.step()
"""


@pytest.mark.parametrize("strategy", ["all_reduce", "ps:bsp"])
@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1"),
        ("raise ValueError('broken here')", "ValueError: broken here"),
        ("gst.all_reduce(torch.ones(7))", "7 elements of float32"),
    ],
    ids=["killed", "raised", "mistaken"],
)
def test_a_rank_that_ends_within_a_step(strategy: str, end: str, told: str) -> None:
    """Those that wait for it in a forward learn so, and so does one that is out of batches."""
    script = SCRIPT.replace("END", end).replace("STRATEGY", repr(strategy))
    for rank, process in enumerate(run_script(script, 3, forked=True, patience=60)):
        assert process.returncode != 0
        if rank != 1 or "kill" not in end:
            assert told in process.stderr, process.stderr
