"""The options in the text of a strategy: ``ps:ssp(3, shards=2)``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NoReturn

from .errors import InvalidArgument


class Options:
    """What stands in the parentheses of a strategy's text."""

    def __init__(self, what: str, inside: str | None) -> None:
        self._what = what
        self._arguments = split(inside) if inside else []
        self._known: list[str] = []

    def take(self, **known: Callable[[str], Any]) -> dict[str, Any]:
        """Removes `key=value` of the known keys, and reads the values.

        Raises:
            InvalidArgument: when a value is wrong, or is there twice.
        """
        self._known += known
        taken: dict[str, Any] = {}
        for argument in list(self._arguments):
            key, equals, value = (part.strip() for part in argument.partition("="))
            if not equals or key not in known:
                continue
            if key in taken:
                raise InvalidArgument(f"{self._what}: {key} is given twice")
            try:
                taken[key] = known[key](value)
            except InvalidArgument:
                raise
            except ValueError as error:
                raise InvalidArgument(f"{self._what}: {key}={value} is no {error}") from error
            self._arguments.remove(argument)
        return taken

    def rest(self, but: tuple[str, ...] = ()) -> list[str]:
        """What is left: values, and these keys.

        Raises:
            InvalidArgument: when another `key=value` is left.
        """
        self._known += but
        for argument in self._arguments:
            key, equals, _ = argument.partition("=")
            if equals and key.strip() not in but:
                self._refuse(argument)
        return self._arguments

    def refuse_rest(self) -> None:
        """Raises InvalidArgument if anything is left."""
        if self._arguments:
            self._refuse(self._arguments[0])

    def _refuse(self, argument: str) -> NoReturn:
        raise InvalidArgument(
            f"{self._what}: unknown option {argument!r}; there are: {', '.join(self._known)}"
        )


def split(inside: str) -> list[str]:
    """At the commas that stand in no parentheses themselves."""
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def whole(text: str) -> int:
    """A whole number; ValueError says what it should have been."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("whole number below a billion")
    return int(text)


def number(text: str) -> float:
    """Any number that is not negative; ValueError says what it should have been."""
    pattern = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?"
    if not re.fullmatch(pattern, text) or float(text) > 1e9:
        raise ValueError("number up to a billion")
    return float(text)


def number_or_auto(text: str) -> float | Literal["auto"]:
    """The same, or the word auto."""
    try:
        return "auto" if text == "auto" else number(text)
    except ValueError as error:
        raise ValueError(f"{error}, nor auto") from error
