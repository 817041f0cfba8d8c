"""The process groups of this process, and what becomes of them when it ends, or is forked."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from ... import _core
from ..._exit import note_exits
from ...errors import PeerLost


class _Group(Protocol):
    def lost(self) -> PeerLost | None: ...
    def shutdown(self) -> None: ...
    def fail(self, reason: str) -> None: ...
    def leave_to_parent(self) -> None: ...


_groups: weakref.WeakSet[Any] = weakref.WeakSet()
_installed = False


def end_with_process(group: _Group) -> None:
    """Close it when the process ends; tell the others if an exception ends it."""
    global _installed
    _groups.add(group)
    if not _installed:
        _installed = True
        atexit.register(_at_exit)
        os.register_at_fork(after_in_child=_after_fork)
        note_exits(_fail_all)


def forget(group: _Group) -> None:
    """It has been closed."""
    _groups.discard(group)


def watch(members: list[int]) -> Callable[[], None]:
    """Returns what raises when a group of this process fails from now on that has lost one of
    these ranks (of the whole job)."""
    groups = [group for group in _groups if group.lost() is None]

    def check() -> None:
        for group in groups:
            lost = group.lost()
            if lost is not None and lost.rank in members:
                raise PeerLost(str(lost), rank=members.index(lost.rank))

    return check


def _fail_all(reason: str) -> None:
    for group in list(_groups):
        group.fail(reason)


def _at_exit() -> None:
    error = getattr(sys, "last_value", None)
    if error is not None:
        _fail_all(f"{type(error).__name__}: {error}")
    for group in list(_groups):
        try:
            group.shutdown()
        except Exception as failure:
            # The exit code is decided; the others learn from the broken connection.
            print(f"gearshift: leaving a process group failed: {failure}", file=sys.stderr)
    _core.leave_everything()


def _after_fork() -> None:
    """A forked child has none of the threads: the groups are its parent's."""
    for group in list(_groups):
        group.leave_to_parent()
    _groups.clear()
