"""Numbers for people: three significant digits, with units."""

from __future__ import annotations

import math

from ..cell import rate_text

NONE = "–"  # noqa: RUF001
"""In the place of a number that there is not."""

_TIMES = ((7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (1.0, 1.0, "s"), (1e-3, 1e-3, "ms"))


def number(value: float | None) -> str:
    """Such as "1,230" for 1234, "0.0123" for 0.01234, "12.3 million" for 12,345,678."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 1e9:
        return f"{_significant(value / 1e9)} billion"
    if abs(value) >= 1e6:
        return f"{_significant(value / 1e6)} million"
    return _significant(value)


def duration(seconds: float | None) -> str:
    """With the unit that suits: "1.23 s", "45.6 ms", "12.3 min"."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds == 0:
        return "0 s"
    for least, unit, name in _TIMES:
        if seconds >= least:
            return f"{_significant(seconds / unit)} {name}"
    return f"{_significant(seconds * 1e6)} µs"


def duration_range(low: float, high: float) -> str:
    """With the unit once, if it is the same: "1.23–4.56 s"."""
    first, last = duration(low), duration(high)
    value, _, unit = first.partition(" ")
    return f"{value if unit == last.partition(' ')[2] else first}{NONE}{last}"


def quantity(value: int) -> str:
    """Of things that are counted: "3", not "3.00"; from 1,000 on as :func:`number`."""
    return str(value) if abs(value) < 1000 else number(value)


def times(factor: float | None) -> str:
    """A factor: "×1.23"."""
    return NONE if factor is None else f"×{number(factor)}"  # noqa: RUF001


def rate_factor(value: float) -> str:
    """That of a learning rate, as the study's file has it: "×0.5"."""
    return f"×{rate_text(value)}"  # noqa: RUF001


def percent(share: float | None) -> str:
    """A share in percent: "12.3 %" for 0.123."""
    return NONE if share is None else f"{number(100 * share)} %"


def _significant(value: float, digits: int = 3) -> str:
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))  # 9.999 is 10.0
    return f"{rounded:,.{max(0, decimals)}f}"
