"""Local SGD (see local_corners_cases.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gearshift_testing import check, grid

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


def test_dedicated_servers_that_are_not_used_are_told_of(tmp_path: Path) -> None:
    script = tmp_path / "served.py"
    script.write_text(SERVED)
    command = [sys.executable, "-m", "gearshift", "run", "-n", "1", "--servers", "1", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("dedicated servers: 1, which are not used") == 2, done.stderr
