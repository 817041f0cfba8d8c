"""The files that one run leaves behind."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gearshift.report.files import finite, write_json

METRICS = "metrics.jsonl"
CONFIG = "config.toml"
WEIGHTS = "model.safetensors"
DECISIONS = "decisions.jsonl"
RESULT = "result.json"


class RunFolder:
    """Writes a run's files; only rank 0 has one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        clear(path)

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl, at once, so that a crash loses nothing."""
        with open(self.path / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite(row), allow_nan=False) + "\n")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.toml from scalars and tables of scalars."""
        # Names of folders may hold bytes that are no text.
        (self.path / CONFIG).write_text(to_toml(config), encoding="utf-8", errors="replace")

    def write_decisions(self, decisions: Iterable[Mapping[str, Any]]) -> None:
        """Write the decisions about switching, one per line."""
        text = "".join(json.dumps(dict(decision)) + "\n" for decision in decisions)
        (self.path / DECISIONS).write_text(text, encoding="utf-8")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write what the run measured; its presence says that the run came to its end."""
        write_json(self.path / RESULT, result)


def clear(path: Path) -> None:
    """Remove the files of an earlier run, and nothing else."""
    for name in (METRICS, CONFIG, WEIGHTS, DECISIONS, RESULT):
        (path / name).unlink(missing_ok=True)


def read_metrics(path: Path, needed: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, each with the keys that are needed.

    Raises:
        ValueError: naming file and line, for a row that is none.
        OSError: when it cannot be read.
    """
    with open(path / METRICS, encoding="utf-8") as file:
        return [
            _row(line, needed, f"{path / METRICS}:{number}")
            for number, line in enumerate(file, 1)
            if line.strip()
        ]


def read_result(path: Path) -> dict[str, Any] | None:
    """What a run measured; None if it did not come to its end."""
    try:
        return dict(json.loads((path / RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _row(line: str, needed: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: no object")
    for key in needed:
        if key not in row:
            raise ValueError(f"{where}: {key} is missing")
    return row


def to_toml(config: Mapping[str, Any]) -> str:
    """TOML of scalars, then of tables of scalars."""
    scalars = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    lines = [f"{name} = {_scalar(value)}" for name, value in scalars.items() if value is not None]
    for name, table in config.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {_scalar(v)}" for key, v in table.items() if v is not None]
    return "\n".join(lines) + "\n"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
