"""Fixtures for tests of studies."""

from __future__ import annotations

import pytest

from gearshift.sim import processes


@pytest.fixture
def forked_pool() -> processes.Pool:
    """Runs simulations that need not import torch each."""
    from gearshift_testing.learning import ForkedPool  # imports torch, which not all tests have

    return ForkedPool({})


@pytest.fixture
def forked_cells(monkeypatch: pytest.MonkeyPatch, forked_pool: processes.Pool) -> None:
    """Simulated cells of `gearshift study` in this process are run by the above."""
    monkeypatch.setattr(processes, "Pool", lambda jobs: forked_pool)
