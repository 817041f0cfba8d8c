"""Collectives between real processes (see collective_cases.py), on every transport."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid

CASES = Path(__file__).with_name("collective_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_over_shared_memory(world: int, name: str) -> None:
    check(CASES, name, world, "shm")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES, worlds=range(2, 9)))
def test_over_tcp(world: int, name: str) -> None:
    check(CASES, name, world, "tcp")
