"""What a check says: one line of the doctor's list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """Something that was looked at, and what is to be done if it is not as it should be."""

    level: Level
    topic: str
    """What was looked at, in a word or two."""
    found: str
    why: str = ""
    """Why it matters; of a warning or a problem."""
    todo: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def ok(topic: str, found: str) -> Finding:
    return Finding("ok", topic, found)


def warning(topic: str, found: str, why: str, todo: str) -> Finding:
    """A job can run, and will be slower, or less safe, than it could be."""
    return Finding("warning", topic, found, why, todo)


def problem(topic: str, found: str, why: str, todo: str) -> Finding:
    """A job cannot run."""
    return Finding("problem", topic, found, why, todo)


def has_problem(findings: Iterable[Finding]) -> bool:
    return any(finding.level == "problem" for finding in findings)
