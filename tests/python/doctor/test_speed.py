"""How the doctor measures a link, on one that is made up."""

from __future__ import annotations

import pytest

from gearshift.doctor import speed

LATENCY = 50e-6
BYTES_PER_SECOND = 10e6
BURST = 32 << 10
"""Bytes that a shaped link lets through at once, after it was idle."""


@pytest.mark.parametrize("late", [0, 1, 2, 3])
def test_a_transfer_that_was_disturbed_does_not_count(
    monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    sizes: list[int] = []

    def transfer(to: int, kind: int, size: int) -> float:
        sizes.append(size)
        seconds = 2 * LATENCY + max(0, size - BURST) / BYTES_PER_SECOND
        return seconds + (0.03 if len(sizes) == late else 0)

    monkeypatch.setattr(speed, "_transfer", transfer)
    assert speed._bandwidth(1, 0, LATENCY) == pytest.approx(BYTES_PER_SECOND, rel=0.15)
    assert len(sizes) < 12
