"""Cases: functions that every process of a job runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A registered function, and the numbers of workers that it is for."""

    name: str
    run: Callable[[], None]
    worlds: tuple[int, ...]
    servers: int


_registered: dict[str, Case] = {}


def case(
    worlds: Sequence[int], servers: int = 0
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function as a case for these numbers of workers (and of dedicated servers).

    It runs on every worker, and must call collectives alike on all, before it asserts anything that
    may fail on some ranks only.
    """

    def register(function: Callable[[], None]) -> Callable[[], None]:
        add(function.__name__, function, worlds, servers)
        return function

    return register


def add(name: str, run: Callable[[], None], worlds: Sequence[int], servers: int = 0) -> None:
    """Register a case under a name."""
    assert name not in _registered, f"two cases are called {name}"
    _registered[name] = Case(name, run, tuple(worlds), servers)


def load(path: Path) -> list[Case]:
    """The cases of a file, in their order."""
    _registered.clear()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = list(_registered.values())
    _registered.clear()
    return cases
