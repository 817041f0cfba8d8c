"""Seconds as text, the way workload files have them: "95 ms", "120 us", "1.2 s"."""

from __future__ import annotations

import re

_UNITS = {
    "ns": (1, 1e9),
    "us": (1, 1e6),
    "\u00b5s": (1, 1e6),
    "\u03bcs": (1, 1e6),
    "ms": (1, 1e3),
    "s": (1, 1),
    "min": (60, 1),
    "h": (3600, 1),
    "d": (86400, 1),
}
_TEXT = re.compile(r"[ \t]*(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[ \t]*([^\W\d]+)[ \t]*")


def parse_duration(text: str) -> float:
    """Seconds from a number with ns, us, ms, s, min, h or d.

    Raises:
        ValueError: when the text is none; its message says what one is.
    """
    found = _TEXT.fullmatch(text)
    if found is None or found[2] not in _UNITS:
        raise ValueError(
            f'"{text}" is no time: write a number with ns, us, ms, s, min, h or d ("25 us")'
        )
    times, over = _UNITS[found[2]]
    return float(found[1]) * times / over  # a division, so that "190 ms" is the float 0.19


def format_duration(seconds: float) -> str:
    """Six digits with the unit that suits; a greater time never has a smaller text."""
    for unit, over in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * over >= 1 or (unit == "us" and seconds > 0):
            return f"{_plain(seconds * over)} {unit}"
    return "0 s"


def short_duration(seconds: float) -> str:
    """The same in three digits."""
    return format_duration(float(f"{seconds:.3g}"))


def _plain(number: float) -> str:
    text = f"{number:.6g}"
    return text if "e" not in text else f"{number:.12f}".rstrip("0").rstrip(".")
