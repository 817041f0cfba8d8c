"""Fixtures for tests of the C++ library."""

from __future__ import annotations

from pathlib import Path

import pytest
from gearshift_testing.cpp import BUILD, run


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where gearshift is installed."""
    folder = tmp_path_factory.mktemp("a prefix")
    run("cmake", "--install", BUILD, "--prefix", folder, "--component", "development")
    return folder
