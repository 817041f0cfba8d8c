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
    for process in run_script(script, 3):
        assert process.returncode == 0, process.stderr
