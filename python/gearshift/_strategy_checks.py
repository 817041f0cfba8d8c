"""What the values in a strategy may be."""

from __future__ import annotations

import math

from .errors import InvalidArgument


def at_least(what: str, value: object, least: int, below: int = 2**31) -> None:
    """A whole number, which the core has room for."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{what} must be a whole number from {least} on, got {value!r}")
    if value >= below:
        raise InvalidArgument(f"{what} must be a whole number below {below}, got {value!r}")


def positive(what: str, value: float) -> None:
    """A finite number above 0."""
    if not (isinstance(value, int | float) and value > 0 and math.isfinite(value)):
        raise InvalidArgument(f"{what} must be a positive number, got {value!r}")


def bucket_size(what: str, value: object) -> None:
    """A positive number, or "auto"."""
    if value == "auto" or (isinstance(value, int | float) and value > 0 and math.isfinite(value)):
        return
    raise InvalidArgument(f"{what} must be a positive number or 'auto', got {value!r}")


def one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    """A name that is known."""
    if value not in allowed:
        raise InvalidArgument(f"{what} {value!r} is none of {', '.join(allowed)}")
