"""What a sweep varies: "workers=4,8,16 bandwidth=100M,1G strategy=all_reduce,ps:asp"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import InvalidArgument
from ..strategy import parse, to_text
from .durations import format_duration, parse_duration
from .rates import format_rate, parse_rate

STRATEGY = "strategy"

HOST_KEYS: dict[str, Callable[[str], float] | None] = {
    "workers": int,
    "servers": int,
    "speed": float,
    "bandwidth": parse_rate,
    "latency": parse_duration,
    "burst": int,
    "queue": parse_duration,
    "local_bandwidth": parse_rate,
    "local_latency": parse_duration,
    "per_message": parse_duration,
    "reduce_bandwidth": parse_rate,
    "update_bandwidth": parse_rate,
    "copy_bandwidth": parse_rate,
    "zone": None,
}
"""Keys of a cluster's hosts, and what makes numbers of their values."""

_NUMBERS: dict[str, Callable[[str], float] | None] = {
    "workers": int,
    "bandwidth": parse_rate,
    "latency": parse_duration,
    "stragglers": int,
    "straggler_factor": float,
    "batch_size": int,
    **{f"hosts.{key}": number for key, number in HOST_KEYS.items()},
}

OF_NO_CLUSTER = (STRATEGY, "batch_size")
"""Axes that change nothing in a cluster's file."""

_LEAST = {"workers": 1, "stragglers": 0, "batch_size": 1}
_NEAR = 0.75
"""How alike a name must be to one that there is to be taken for it."""
_MOST = 2**63 - 1
"""Of whole numbers: what TOML and Parquet hold."""


@dataclass(frozen=True)
class Axis:
    """A name, and its values in rising order where they are numbers."""

    name: str
    values: tuple[float | str, ...]

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers: bytes per second, seconds, or plain."""
        return not any(isinstance(value, str) for value in self.values)

    def show(self, value: float | str) -> str:
        """A value with its unit."""
        if isinstance(value, str):
            return value
        number = _NUMBERS[self.name]
        if number is parse_rate:
            return format_rate(value)
        if number is parse_duration:
            return format_duration(float(f"{value:.4g}"))
        # Whole numbers to the last digit; a crossover lies between them.
        return f"{value:.0f}" if number is int and value >= 1000 else f"{value:.4g}"

    @property
    def kind(self) -> type:
        """Of its values: whole numbers, numbers or texts."""
        number = None if self.name == STRATEGY else _NUMBERS[self.name]
        return int if number is int else str if number is None else float


def parse_sweep(texts: Iterable[str]) -> list[Axis]:
    """The axes of a sweep; blanks part axes, commas values, but not within parentheses.

    Raises:
        InvalidArgument: naming the axis; unknown ones, with a list of those that there are.
    """
    axes: list[Axis] = []
    for part in _split(" ".join(texts), r"\s"):
        name, equals, values = part.partition("=")
        if not equals or not name:
            hint = ", without blanks behind commas" if axes and not equals else ""
            raise InvalidArgument(f'sweep: "{part}" is no axis; write NAME=VALUE,VALUE,…{hint}')
        if any(axis.name == name for axis in axes):
            raise InvalidArgument(f'sweep: "{name}" is there twice')
        axes.append(_axis(name, _split(values, ","), [STRATEGY, *_NUMBERS]))
    if not axes:
        raise InvalidArgument("sweep: give at least one axis, such as workers=4,8,16")
    return axes


def changes(values: Mapping[str, object]) -> list[Axis]:
    """The axes of a table of a file that changes a cluster: each key has a value, or an array.

    Keys of hosts may be in a table of their own, which TOML makes of ``hosts.speed = 2``.

    Raises:
        InvalidArgument: naming the axis, as :func:`parse_sweep` does.
    """
    hosts = values.get("hosts")
    if isinstance(hosts, dict):
        named = {f"hosts.{key}": value for key, value in hosts.items()}
        values = {key: value for key, value in values.items() if key != "hosts"} | named
    wrong = next((key for key in values if key in OF_NO_CLUSTER), None)
    if wrong is not None:
        raise InvalidArgument(f"sweep: {wrong} is nothing of a cluster")
    known = [name for name in _NUMBERS if name not in OF_NO_CLUSTER]
    return [
        _axis(name, value if isinstance(value, list) else [value], known)
        for name, value in values.items()
    ]


def _split(text: str, separator: str) -> list[str]:
    """Parts of a text between separators that stand outside of parentheses, of two levels."""
    inside = r"\((?:[^()]|\([^)]*\))*\)"
    parts = re.findall(rf"(?:{inside}|(?!{separator}).)+", text, re.DOTALL)
    return [part.strip() for part in parts if part.strip()]


def _axis(name: str, given: Sequence[object], known: Sequence[str]) -> Axis:
    if name not in known:
        near = get_close_matches(name, known, 1, _NEAR)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        told = f'sweep: there is no axis "{name}"; there are {", ".join(known)}{hint}'
        raise InvalidArgument(told)
    if not given:
        raise InvalidArgument(f"sweep: {name} has no values")
    if name == STRATEGY:
        values: list[float | str] = [to_text(parse(str(text))) for text in given]
    else:
        number = _NUMBERS[name]
        values = (
            sorted(_number(name, value, number) for value in given)
            if number
            else [str(value) for value in given]
        )
    if len(set(values)) < len(values):
        raise InvalidArgument(f"sweep: {name} has a value twice")
    return Axis(name, tuple(values))


def _number(name: str, given: object, number: Callable[[str], float]) -> float:
    """A value as text, or of a file, where a plain number is bytes per second, or seconds."""
    text, has_unit = str(given), number in (parse_rate, parse_duration)
    try:
        is_plain = isinstance(given, int | float) and not isinstance(given, bool)
        value = float(text) if is_plain and has_unit else number(text)
    except ValueError as error:
        noun = "whole number" if number is int else "number"
        told = str(error) if has_unit else f'"{text}" is no {noun}'
        raise InvalidArgument(f"sweep: {name}: {told}") from error
    least = _LEAST.get(name)
    if isinstance(value, int) and value > _MOST:
        raise InvalidArgument(f"sweep: {name}: {text[:40]} is too great")
    if not math.isfinite(value) or value < 0 or (least is not None and value < least):
        raise InvalidArgument(f"sweep: {name}: {text} is too small or not finite")
    return value
