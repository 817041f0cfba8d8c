"""What cannot be distributed is refused (see refusals_cases.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid

CASES = Path(__file__).with_name("refusals_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_refusals(world: int, name: str) -> None:
    check(CASES, name, world)
