"""Numbers of things, and lists, in words."""

from __future__ import annotations

from collections.abc import Sequence


def count(amount: int, noun: str, plural: str = "") -> str:
    """With its noun: "1 cell", "2 cells"."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def several(words: Sequence[str]) -> str:
    """A list in words: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def times(amount: int) -> str:
    """How often: "once", "3 times"."""
    return "once" if amount == 1 else f"{amount:,} times"
