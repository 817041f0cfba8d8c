"""Local SGD (see local_corners_cases.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid, run_script

CASES = Path(__file__).with_name("local_corners_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_local_corners(world: int, name: str) -> None:
    check(CASES, name, world)


SERVED = """
import torch, gearshift as gs, gearshift.torch as gst
gs.init()
for strategy in ("local_sgd(4)", "switch(then=local_sgd(4), at=2)", "switch(then=ps, at=2)"):
    model = torch.nn.Linear(3, 1)
    gst.distribute(model, torch.optim.SGD(model.parameters(), lr=0.1), strategy)
    gst.release(model)
"""


def test_dedicated_servers_that_are_not_used_are_told_of() -> None:
    processes = run_script(SERVED, 1, servers=1, forked=True)
    said = "".join(process.stderr for process in processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert said.count("dedicated servers: 1, which are not used") == 2, said
