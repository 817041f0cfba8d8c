"""Progress in logs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gearshift.sim import display
from gearshift.sim.display import PlainDisplay


def test_the_time_left_goes_by_what_was_done_since_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Processes that have to load torch before the first step took it for the pace."""
    now = 100.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    text = io.StringIO()
    shown = PlainDisplay(Console(file=text))
    shown.begin("simulating", 900)
    for passed, count in ((11.0, 1), (5.0, 49), (5.0, 50)):
        now += passed
        shown.advance(count)
    assert text.getvalue().splitlines() == [
        "simulating: 1/900",
        "simulating: 100/900, about 81 s left",
    ]
