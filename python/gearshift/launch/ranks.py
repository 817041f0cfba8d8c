"""Ranks as messages name them."""

from __future__ import annotations

from collections.abc import Iterable


def name_ranks(ranks: Iterable[int]) -> str:
    """ "rank 3", "ranks 0 to 2, 5"; of one rank at least."""
    numbers = sorted(ranks)
    parts: list[str] = []
    first = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            parts.append(_span(numbers[first], numbers[i - 1]))
            first = i
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(parts)}"


def _span(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first}, {last}" if last == first + 1 else f"{first} to {last}"
