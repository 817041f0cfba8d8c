"""TOML files that people write: what is wrong is said with file, line and key."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from . import LaunchError

Keys = tuple[str | int, ...]
"""A key below tables: their names, and the places of those that are in arrays."""

NUL = "has a character of number 0, which no path and no argument of a program can have"
_A_SLIP = 0.75
"""How alike a key and its misspelling are at least, of difflib's ratio."""
_TOO_LONG = "a whole number is outside of -2^63 to 2^63 - 1"


class TomlFile:
    """The text of a file, and where its keys are.

    Raises:
        LaunchError: when it cannot be read, or is no TOML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        except OSError as error:
            raise LaunchError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise LaunchError(f"{path}:{line}: is no UTF-8 text") from error
        try:
            self.root = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise LaunchError(f"{path}:{self._place(str(error))}") from error
        except (ValueError, RecursionError) as error:
            raise LaunchError(f"{path}: {why_unread(error)}") from error
        for keys in _too_long(self.root, ()):
            self.fail(keys, _TOO_LONG)

    def fail(self, keys: Keys, what: str) -> NoReturn:
        """An error of a key, which is named by the tables that it is in and itself."""
        raise LaunchError(f"{self.place_of(keys)}: {what}")

    def place_of(self, keys: Keys) -> str:
        """File, line and key: "train.toml:3: processes"."""
        return f"{self.path}:{self.line_of(keys)}: {_named(keys)}"

    def line_of(self, keys: Keys) -> int:
        """Where the statement begins that makes a key; 1 if nothing does.

        The parser does not say, but it can be asked: the lines up to any are TOML themselves where
        a statement ends, and have the key from the statement on that makes it.
        """
        lines = self._text.split("\n")
        begin = 1
        for count in range(1, len(lines) + 1):
            try:
                document = tomllib.loads("\n".join(lines[:count]))
            except tomllib.TOMLDecodeError:
                continue
            if _has(document, keys):
                return begin
            begin = count + 1
        return 1

    def _place(self, message: str) -> str:
        """ "3:7: what" of "what (at line 3, column 7)"."""
        what, _, at = message.removesuffix(")").rpartition(" (at ")
        numbers = re.fullmatch(r"line (\d+), column (\d+)", at)
        if numbers is not None:
            return f"{numbers[1]}:{numbers[2]}: {what}"
        lines = self._text.rstrip().count("\n") + 1
        return f"{lines}: {what or message}"


def why_unread(error: Exception) -> str:
    """What is wrong with a text of TOML or JSON, also where Python's parser itself gives up."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    # Python makes no number of thousands of digits; parsers have errors of their own.
    return _TOO_LONG if type(error) is ValueError else str(error)


def _too_long(value: Any, keys: Keys) -> Iterator[Keys]:
    """Whole numbers that Python can hold, and TOML cannot."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield keys
    items = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else items:
        yield from _too_long(item, (*keys, key))


def _has(document: Any, keys: Keys) -> bool:
    for key in keys:
        if isinstance(key, int):
            if not isinstance(document, list) or key >= len(document):
                return False
        elif not isinstance(document, Mapping) or key not in document:
            return False
        document = document[key]
    return True


def _named(keys: Keys) -> str:
    """ "clusters[1].file"."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


class Table:
    """One table of a file. Each method reads a key, and gives None where it is not."""

    def __init__(self, file: TomlFile, values: Mapping[str, Any], keys: Keys = ()):
        self._file = file
        self._keys = keys
        self.values = values
        self._asked: list[str] = []

    def has(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, kind: type | tuple[type, ...], noun: str) -> Any:
        """A value of any type, or of some types."""
        self._asked.append(key)
        value = self.values.get(key)
        if value is not None:
            self.check(key, value, kind, noun)
        return value

    def check(self, key: str, value: Any, kind: type | tuple[type, ...], noun: str) -> None:
        """Refuse a value, or an element of one, that is of another type."""
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.fail(key, f"must be {noun}, this is {shown(value)}")

    def text(self, key: str) -> str | None:
        """A text, which is not empty."""
        value: str | None = self.get(key, str, "a text")
        if value is not None and not value.strip():
            self.fail(key, "is empty; leave the key out instead")
        if value is not None and "\0" in value:
            self.fail(key, NUL)
        return value

    def flag(self, key: str) -> bool | None:
        value: bool | None = self.get(key, bool, "true or false")
        return value

    def whole(self, key: str, least: int) -> int | None:
        """A whole number."""
        value: int | None = self.get(key, int, "a whole number")
        if value is not None and value < least:
            self.fail(key, f"must be at least {least}, this is {value}")
        return value

    def seconds(self, key: str, *, may_be_zero: bool) -> float | None:
        """A time."""
        value: int | float | None = self.get(key, (int, float), "a number of seconds")
        if value is None:
            return None
        if not 0 <= value < float("inf") or (value == 0 and not may_be_zero):
            least = "zero or a positive" if may_be_zero else "a positive"
            self.fail(key, f"must be {least} number of seconds, this is {shown(value)}")
        return float(value)

    def words(self, key: str, choices: tuple[str, ...]) -> tuple[str, ...] | None:
        """An array of some of the choices."""
        values: list[Any] | None = self.get(key, list, f"an array of {_quoted(choices)}")
        for i, value in enumerate(values or ()):
            if value not in choices:
                self.fail(key, f"[{i}] must be one of {_quoted(choices)}, this is {shown(value)}")
        return None if values is None else tuple(values)

    def table(self, key: str) -> Table | None:
        values = self.get(key, dict, f"a table, [{_named((*self._keys, key))}]")
        return None if values is None else Table(self._file, values, (*self._keys, key))

    def tables(self, key: str) -> list[Table] | None:
        """An array of tables."""
        noun = f"tables, each headed [[{key}]]"
        values = self.get(key, list, noun)
        for value in values or ():
            self.check(key, value, dict, noun)
        if values is None:
            return None
        return [Table(self._file, v, (*self._keys, key, i)) for i, v in enumerate(values)]

    def number(self, key: str) -> float | None:
        """A finite number."""
        value: int | float | None = self.get(key, (int, float), "a number")
        if value is not None and not math.isfinite(value):
            self.fail(key, f"must be finite, this is {value}")
        return None if value is None else float(value)

    def missing(self, key: str, what: str) -> NoReturn:
        """An error of a key that is not there, at the line where its table begins.

        Of another key, if that is one of those asked for so far with a slip of the pen.
        """
        for other in self.values:
            if other not in self._asked:
                near = difflib.get_close_matches(other, (*self._asked, key), 1, _A_SLIP)
                if near:
                    self.fail(other, f'unknown key; did you mean "{near[0]}"?')
        line = self._file.line_of(self._keys)
        name = _named((*self._keys, key))
        raise LaunchError(f"{self._file.path}:{line}: {name}: is missing: {what}")

    def no_other_keys(self) -> None:
        """Refuse every key that was not asked for; call it last."""
        for key in self.values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, 1)
                hint = f'did you mean "{near[0]}"?' if near else f"there are {_quoted(self._asked)}"
                self.fail(key, f"unknown key; {hint}")

    def fail(self, key: str, what: str) -> NoReturn:
        """An error of a key."""
        self._file.fail((*self._keys, key), what)


def shown(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "an array"
    return "a table" if isinstance(value, dict) else "a date or time"


def _quoted(words: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f'"{word}"' for word in words)
