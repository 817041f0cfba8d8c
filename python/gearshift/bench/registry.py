"""All benchmark cases.

To add some: write a function that returns settings, beside the ones below, and name it here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch

from gearshift.launch import LaunchError

from . import across_hosts, one_host, servers, training
from .case import Setting

SOURCES: tuple[Callable[[], list[Setting]], ...] = (
    one_host.settings,
    across_hosts.settings,
    training.settings,
    servers.settings,
)


def all_settings() -> list[Setting]:
    """Everything that can be measured, in the order in which it is."""
    return [setting for source in SOURCES for setting in source()]


def select(settings: Sequence[Setting], patterns: Sequence[str], quick: bool) -> list[Setting]:
    """The settings with those points that are wanted.

    Args:
        settings: to choose from.
        patterns: globs of case names, such as ``one_host/2/*``; none: all.
        quick: only the points that --quick measures, unless patterns ask for others.

    Raises:
        LaunchError: when a pattern matches nothing.
    """
    for pattern in patterns:
        if not any(_matches(name, pattern) for s in settings for name in s.cases()):
            raise LaunchError(f"--case {pattern!r} matches no case; --list shows them all")
    chosen = []
    for setting in settings:
        points = tuple(
            point
            for name, point in zip(setting.cases(), setting.points, strict=True)
            if (any(_matches(name, p) for p in patterns) if patterns else point.quick or not quick)
        )
        if points:
            chosen.append(replace(setting, points=points))
    return chosen


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name, pattern.rstrip("/") + "/*")
