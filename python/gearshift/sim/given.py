"""What is given from Python: as plain values, or an error that names the argument."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from ..errors import InvalidArgument

_DEEPEST = 100
"""Tables and lists within each other; more would exhaust the stack."""


def plain(value: Any, path: str = "", within: tuple[int, ...] = ()) -> Any:
    """Tables, lists and numbers of Python, for numpy's scalars and arrays and the like, too.

    Raises:
        InvalidArgument: naming the key, for keys and texts that are none, and for what contains
            itself.
    """
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, Mapping | list | tuple):
        if id(value) in within:
            raise InvalidArgument(f"{path}: contains itself")
        if len(within) == _DEEPEST:
            raise InvalidArgument(f"{path[:80]}…: is nested too deeply")
        within = (*within, id(value))
    if isinstance(value, Mapping):
        keys = [(key, _key(key, path)) for key in value]
        return {key: plain(value[given], _join(path, key), within) for given, key in keys}
    if isinstance(value, list | tuple):
        items = [plain(item, f"{path}[{i}]", within) for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, bool | type):
        return value
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    of_python = getattr(value, "tolist", None)  # numpy's arrays and truth values, tensors
    return plain(of_python(), path, within) if callable(of_python) else value


def kind(value: Any) -> str:
    """What it is, with its article: "an int"; None is itself."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def whole(name: str, value: Any) -> int:
    """A whole number.

    Raises:
        InvalidArgument: for everything else.
    """
    value = plain(value, name)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InvalidArgument(f"{name}={value!r}: must be a whole number")
    return int(value)


def number(name: str, value: Any) -> float:
    """A number, which may be none that is finite; see :func:`whole`."""
    value = plain(value, name)
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InvalidArgument(f"{name}={value!r}: must be a number")
    try:
        return float(value)
    except OverflowError:  # a whole number with hundreds of digits
        return -math.inf if isinstance(value, int) and value < 0 else math.inf


def flag(name: str, value: Any) -> bool:
    """True or False; see :func:`whole`."""
    value = plain(value, name)
    if not isinstance(value, bool):
        raise InvalidArgument(f"{name}={value!r}: must be True or False")
    return value


def text(name: str, value: Any) -> str:
    """A text; see :func:`whole`."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{name}={value!r}: must be a text")
    return _text(value, name)


def readable(name: str) -> str:
    """The name of a file, whose bytes may be no UTF-8: for errors and titles."""
    return name.encode(errors="replace").decode()


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"{path}: " if path else ""
        raise InvalidArgument(
            f"{what}{value!r:.200} cannot be written as UTF-8: {error}"
        ) from error
    return str(value)


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        where = f"{path}: " if path else ""
        raise InvalidArgument(f"{where}the key {key!r} is {kind(key)}, no text")
    return _text(key, path)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
