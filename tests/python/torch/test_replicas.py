"""Replicas that differ (see replicas_cases.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid

CASES = Path(__file__).with_name("replicas_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_replicas(world: int, name: str) -> None:
    check(CASES, name, world)
