"""Bytes per second as text, the way cluster files have them: "1 Gbit/s", "100M", "119.6 MB/s"."""

from __future__ import annotations

import re

_TEXT = re.compile(r"\s*(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKmMgGtT]i?)?(\S*)\s*")
_BITS = ("bit/s", "b/s", "bit")


def parse_rate(text: str) -> float:
    """Bytes per second; a prefix alone counts bits, as for ``tc``.

    Raises:
        ValueError: when the text is none; its message says what one is.
    """
    found = _TEXT.fullmatch(text)
    number, prefix, unit = found.groups() if found else ("", None, "?")
    bits = unit in _BITS or (unit == "" and prefix is not None)
    if unit != "B/s" and not bits:
        raise ValueError(
            f'"{text}" is no rate: write bits per second ("1 Gbit/s", "100M") or bytes per second '
            '("119.6 MB/s")'
        )
    scale = 1.0
    if prefix:
        scale = (1024.0 if prefix.endswith("i") else 1000.0) ** (
            "kmgt".index(prefix[0].lower()) + 1
        )
    return float(number) * scale / (8 if bits else 1)


def format_rate(bytes_per_second: float) -> str:
    """In bits per second, three digits: "1 Gbit/s"."""
    bits = 8 * bytes_per_second
    for unit, over in (("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits >= over:
            return f"{bits / over:.4g} {unit}"
    return f"{bits:.4g} bit/s"
