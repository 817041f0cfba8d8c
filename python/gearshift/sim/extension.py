"""The compiled simulator, which is there only when gearshift was built with SimGrid."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .._bindings import is_misfit
from ..errors import InvalidArgument, Unsupported

_MADE_LINE = re.compile(r"^([^\n]+?(?:\.json| with [^:\n]+)):\d+: ")


def load() -> Any:
    """The extension module.

    Raises:
        Unsupported: when gearshift was built without it, or it was built from other sources than
            the Python files; the text says how to get it.
    """
    try:
        from gearshift import _sim  # type: ignore[attr-defined,unused-ignore]
    except ImportError as error:
        if is_misfit(error):
            raise Unsupported(str(error)) from error
        raise Unsupported(
            f"this gearshift was built without the simulator ({error}); it needs SimGrid, "
            "Boost.Context and toml++: run `apt install libsimgrid-dev libboost-context-dev "
            "libtomlplusplus-dev` and install gearshift again"
        ) from error
    return _sim


def describe_cluster(text: str, name: str) -> dict[str, Any]:
    """What a cluster file holds: ``workers``, ``servers``, ``hosts``.

    Raises:
        InvalidArgument: naming file, line and key.
    """
    return _told(load().describe_cluster, text, name)


def check_workload(text: str, name: str) -> None:
    """Refuse a workload file that is wrong.

    Raises:
        InvalidArgument: naming file, line and key.
    """
    _told(load().check_workload, text, name)


def without_line(text: str) -> str:
    """An error without the line, where that is none of the user's file.

    JSON, and clusters that a sweep has changed, are made TOML of before they are read.
    """
    return _MADE_LINE.sub(r"\1: ", text)


def _told(call: Callable[[str, str], Any], text: str, name: str) -> Any:
    try:
        return call(text, name)
    except InvalidArgument as error:
        raise InvalidArgument(without_line(str(error))) from error
