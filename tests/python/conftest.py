"""Fixtures for tests in several folders."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from gearshift_testing.network import Network


@pytest.fixture
def network() -> Iterator[Network]:
    """Two hosts in different networks; skips the test where they cannot be made."""
    made = Network(f"gs{os.getpid()}")
    try:
        made.make()
    except (OSError, subprocess.CalledProcessError) as error:
        made.remove()
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', None) or error}")
    yield made
    made.remove()
