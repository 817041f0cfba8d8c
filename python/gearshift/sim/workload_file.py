"""Reading and writing the file of a workload."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import Error, InvalidArgument
from ..launch.toml_file import why_unread
from ..report.files import write_whole
from .durations import format_duration, parse_duration
from .given import number
from .workload import KINDS, Variability, Workload, WorkloadParameter

_FACTORS_PER_LINE = 10


def load(path: Path) -> Workload:
    """See :meth:`Workload.load`."""
    text = read_text(path)
    try:
        return from_document(_parse(text, path), path.stem)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from error


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        Error: when it cannot be read.
        InvalidArgument: when it is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin with a byte order mark
    except OSError as error:
        raise Error(f"{path}: {error.strerror or error}", code="io") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path}: not UTF-8 text: {error}") from error
    except ValueError as error:  # a path that no file can have
        raise InvalidArgument(f"{str(path)!r} is no path: {error}") from error


def save(workload: Workload, path: Path, comment: str = "") -> None:
    """See :meth:`Workload.save`."""
    workload.validate()
    as_json = path.suffix == ".json"
    text = _json(workload) if as_json else _toml(workload, comment)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise Error(f"{path}: {error.strerror or error}", code="io") from error


# Reading.


class _Table:
    """One table of the file; each method reads a key and names it when its value is wrong."""

    def __init__(self, value: Any, path: str) -> None:
        self._prefix = path + "." if path else ""
        if not isinstance(value, Mapping):
            raise InvalidArgument(f"{path or 'the file'}: must be a table, {_shown(value)} is none")
        self._values = value
        self._asked: list[str] = []

    def has(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, types: type | tuple[type, ...], noun: str, default: Any = None) -> Any:
        """The value, or the default (None: there must be one)."""
        self._asked.append(key)
        if key not in self._values:
            if default is None:
                self.fail(key, "is missing")
            return default
        value = self._values[key]
        if not isinstance(value, types) or isinstance(value, bool):
            self.fail(key, f"must be {noun}, {_shown(value)} is none")
        return value

    def duration(self, key: str, default: float | None = None) -> float:
        value = self.get(key, (int, float, str), 'a time such as "95 ms"', default)
        if not isinstance(value, str):
            return number(key, value)
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(key, str(error))
            raise

    def array(self, key: str, types: type | tuple[type, ...], noun: str) -> list[Any]:
        values = self.get(key, list, f"an array of {noun}s")
        for i, value in enumerate(values):
            if not isinstance(value, types) or isinstance(value, bool):
                self.fail(f"{key}[{i}]", f"must be a {noun}, {_shown(value)} is none")
        return values

    def no_other_keys(self) -> None:
        for key in self._values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, 1)
                hint = f'; did you mean "{near[0]}"?' if near else ""
                self.fail(key, f"no such key; there are {', '.join(self._asked)}{hint}")

    def fail(self, key: str, what: str) -> None:
        raise InvalidArgument(f"{self._prefix}{key}: {what}")


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:60]


def _parse(text: str, path: Path) -> Any:
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise InvalidArgument(f"no {kind}: {why_unread(error)}") from error


def from_document(value: Any, stem: str) -> Workload:
    """The workload that a file's contents describe; `stem` is its name if they have none.

    Raises:
        InvalidArgument: naming the key that is wrong.
    """
    table = _Table(value, "")
    name = table.get("name", str, "text", stem)
    batch_size = table.get("batch_size", int, "a whole number", 1)
    forward, backward = table.duration("forward"), table.duration("backward")
    optimizer = table.duration("optimizer", 0.0)
    variability = Variability()
    if table.has("variability"):
        variability = _variability(table.get("variability", dict, "a table"))
    items = table.array("parameters", dict, "table")
    table.no_other_keys()
    read = [_parameter(item, f"parameters[{i}]") for i, item in enumerate(items)]
    found = tuple(parameter for parameter, _ in read)
    workload = Workload(name, batch_size, forward, backward, optimizer, found, variability)
    workload.validate()
    return spread_ready(workload, [given for _, given in read])


def _parameter(value: Any, path: str) -> tuple[WorkloadParameter, bool]:
    """The parameter, and whether the file says when it is ready."""
    table = _Table(value, path)
    parameter = WorkloadParameter(
        name=table.get("name", str, "text"),
        shape=tuple(table.array("shape", int, "whole number")),
        dtype=table.get("dtype", str, "text", "float32"),
        ready_seconds=table.duration("ready", 0.0),
    )
    table.no_other_keys()
    return parameter, table.has("ready")


def _variability(value: Any) -> Variability:
    table = _Table(value, "variability")
    kind = table.get("kind", str, "text")
    if kind not in KINDS:
        table.fail("kind", f'"{kind}" is none of {", ".join(KINDS)}')
    spread, factors = 0.0, []
    if kind in ("normal", "log-normal"):
        spread = number("spread", table.get("spread", (int, float), "a number"))
    if kind == "empirical":
        factors = table.array("factors", (int, float), "number")
    table.no_other_keys()
    return Variability(kind, spread, tuple(number("factors", f) for f in factors))


def spread_ready(workload: Workload, given: list[bool]) -> Workload:
    """Parameters without `ready` are so from the last to the first, in proportion to bytes."""
    if all(given):
        return workload
    total, done = workload.parameter_bytes, 0
    parameters = list(workload.parameters)
    for i in reversed(range(len(parameters))):
        p = parameters[i]
        done += p.nbytes
        if not given[i]:
            parameters[i] = replace(p, ready_seconds=workload.backward_seconds * (done / total))
    return replace(workload, parameters=tuple(parameters))


# Writing.


def document(
    workload: Workload, time: Callable[[float], str | float] = lambda seconds: seconds
) -> dict[str, Any]:
    """What the file holds; `time` says how seconds are written there (as numbers)."""
    variability = workload.variability
    return {
        "name": workload.name,
        "batch_size": workload.batch_size,
        "forward": time(workload.forward_seconds),
        "backward": time(workload.backward_seconds),
        "optimizer": time(workload.optimizer_seconds),
        "parameters": [
            {"name": p.name, "shape": p.shape, "dtype": p.dtype, "ready": time(p.ready_seconds)}
            for p in workload.parameters
        ],
        "variability": {"kind": variability.kind, **_numbers_of(variability)},
    }


def _json(workload: Workload) -> str:
    return json.dumps(document(workload, format_duration), indent=1, ensure_ascii=False) + "\n"


def _numbers_of(variability: Variability) -> dict[str, Any]:
    if variability.kind == "empirical":
        return {"factors": list(variability.factors)}
    return {} if variability.kind == "constant" else {"spread": variability.spread}


def _toml(workload: Workload, comment: str) -> str:
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [
        f"name = {_quoted(workload.name)}",
        f"batch_size = {workload.batch_size}",
        f'forward = "{format_duration(workload.forward_seconds)}"',
        f'backward = "{format_duration(workload.backward_seconds)}"',
        f'optimizer = "{format_duration(workload.optimizer_seconds)}"',
        "parameters = [",
        *(f"  {_inline(parameter)}," for parameter in workload.parameters),
        "]",
        "",
        "[variability]",
        f'kind = "{workload.variability.kind}"',
    ]
    for key, value in _numbers_of(workload.variability).items():
        lines += _wrapped(key, value) if isinstance(value, list) else [f"{key} = {value!r}"]
    return "\n".join(lines) + "\n"


def _inline(p: WorkloadParameter) -> str:
    return (
        f"{{name = {_quoted(p.name)}, shape = {list(p.shape)}, "
        f'dtype = "{p.dtype}", ready = "{format_duration(p.ready_seconds)}"}}'
    )


def _wrapped(key: str, numbers: list[float]) -> list[str]:
    rows = [
        ", ".join(repr(float(n)) for n in numbers[start : start + _FACTORS_PER_LINE])
        for start in range(0, len(numbers), _FACTORS_PER_LINE)
    ]
    return [f"{key} = [", *(f"  {row}," for row in rows), "]"]


def _quoted(text: str) -> str:
    """A TOML string; JSON's escapes are TOML's, except that TOML wants one for DEL, too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
