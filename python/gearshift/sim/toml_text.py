"""Writes TOML, for clusters and workloads that were changed or made in Python."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidArgument
from .given import kind, plain


def dumps(document: Mapping[str, Any]) -> str:
    """A document of tables, lists of tables and values as TOML; numpy's are Python's.

    Raises:
        InvalidArgument: naming the key, for what TOML cannot say.
    """
    pairs, tables = [], []
    for key, value in plain(document).items():
        if isinstance(value, Mapping):
            tables += [f"\n[{_key(key)}]", *_pairs(value, key)]
        elif _is_tables(value):
            for i, table in enumerate(value):
                tables += [f"\n[[{_key(key)}]]", *_pairs(table, f"{key}[{i}]")]
        else:
            pairs.append(f"{_key(key)} = {_value(value, key)}")
    return "\n".join(pairs + tables) + "\n"


def _pairs(table: Mapping[str, Any], path: str) -> list[str]:
    return [f"{_key(key)} = {_value(value, f'{path}.{key}')}" for key, value in table.items()]


def _is_tables(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _key(key: str) -> str:
    return key if key.replace("-", "_").isidentifier() and key.isascii() else _text(key)


def _text(text: str) -> str:
    """JSON's escapes are TOML's, except that TOML wants one for DEL, too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any, path: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        pairs = (f"{_key(k)} = {_value(v, f'{path}.{k}')}" for k, v in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if _is_list(value):
        return "[" + ", ".join(_value(v, f"{path}[{i}]") for i, v in enumerate(value)) + "]"
    raise InvalidArgument(f"{path}: {kind(value)} cannot stand in a TOML file")
