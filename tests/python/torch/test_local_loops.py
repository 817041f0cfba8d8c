"""Local SGD in training loops (see local_loops_cases.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid

CASES = Path(__file__).with_name("local_loops_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_local_loops(world: int, name: str) -> None:
    check(CASES, name, world)
