"""States of samplers within an epoch are exact (see sampler_state_cases.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid

CASES = Path(__file__).with_name("sampler_state_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_sampler_state(world: int, name: str) -> None:
    check(CASES, name, world)
