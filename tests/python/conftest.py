"""Fixtures for tests in several folders."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from gearshift_testing.network import Network


def pytest_configure() -> None:
    """Started in the background or by nohup, the tests still send these to their children."""
    for number, action in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, action)


def pytest_collection_finish() -> None:
    """Collectors need not look at all modules and tests again and again, which stay to the end."""
    gc.collect()
    gc.freeze()


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
