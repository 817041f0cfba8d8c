"""What training scripts do with a model besides training it (see scripts_cases.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing import check, grid

CASES = Path(__file__).with_name("scripts_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world", "name"), grid(CASES))
def test_scripts(world: int, name: str) -> None:
    check(CASES, name, world)
