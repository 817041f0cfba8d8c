"""The process groups of this process, and what becomes of them when it ends, or is forked."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import torch.distributed as dist

from ... import _core
from ..._exit import note_exits
from ...errors import Error, PeerLost
from ._messages import Messages
from ._work import Lane

ABORTED = "the process group was aborted"
_DESTROYED = "the process group was destroyed with operations under way"


@dataclass(frozen=True)
class Loss:
    """What has ended a group."""

    rank: int
    """The one to blame, in the whole job."""
    why: str
    of_process: bool
    """Whether the rank is lost with all its groups."""

    @classmethod
    def of(cls, error: Error, rank: int) -> Loss:
        given_up = error.code == "aborted" and (ABORTED in str(error) or _DESTROYED in str(error))
        gone = isinstance(error, PeerLost) and not given_up
        return cls(rank, str(error), gone)


class _Group(Protocol):
    def lost(self) -> Loss | None: ...
    def has_left(self, rank: int) -> bool: ...
    def begin_to_leave(self) -> bool: ...
    def leave(self, seconds: float) -> bool: ...
    def fail(self, reason: str) -> None: ...
    def leave_to_parent(self) -> None: ...


_groups: weakref.WeakSet[Any] = weakref.WeakSet()
_installed = False
_FAREWELL_SECONDS = 30.0
"""For messages that are under way when a group is destroyed, and operations that others are in."""
_ALONE_SECONDS = 5.0
"""The same for operations that nobody else is in."""
_TURN_SECONDS = 0.005
"""For each group that is waited for at the end, in turn."""


class Farewell:
    """How a rank leaves a group whose operations may still be under way.

    It stays for what others need: for messages that are not sent, for operations that others are
    in, and a moment for those that somebody may come to.

    Args:
        lane: of operations; closed.
        messages: closed.
    """

    def __init__(self, session: _core.Session, lane: Lane, messages: Messages) -> None:
        self._session = session
        self._lane = lane
        self._messages = messages
        self._alone_since = time.monotonic()
        self._end = time.monotonic() + _FAREWELL_SECONDS

    def attempt(self, seconds: float) -> bool:
        """Leave, if it can be done so soon, or has to be. Whether it was."""
        sent = self._messages.join_senders(time.monotonic() + seconds)
        done = sent and self._lane.join(seconds)
        now = time.monotonic()
        if done:
            # A group that has failed ends, too: its operations told, and another may follow.
            with contextlib.suppress(Error):
                self._session.close()
            return True
        if not sent or self._session.others_take_part():
            self._alone_since = now
        if now < min(self._end, self._alone_since + _ALONE_SECONDS):
            return False
        self._session.fail(_DESTROYED)
        return True


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


class Watch:
    """What the groups of this process know of the ranks that a new one waits for.

    Args:
        members: their ranks in the whole job.
    """

    def __init__(self, members: list[int]) -> None:
        self._members = members
        # A rank may be well that gave up a group before.
        known = [(group, group.lost()) for group in list(_groups)]
        self._groups = [group for group, loss in known if loss is None or loss.of_process]

    def check(self) -> None:
        """Raises PeerLost when one of the ranks is lost, whose number in the new group it has."""
        for group in self._groups:
            loss = group.lost()
            if loss is not None and loss.rank in self._members:
                raise PeerLost(loss.why, rank=self._members.index(loss.rank))

    def has_left(self, rank: int) -> PeerLost | None:
        """When a rank of the new group has left the one that all groups are made in."""
        everyone: Any = dist.group.WORLD
        member = self._members[rank]
        if everyone not in self._groups or not everyone.has_left(member):
            return None
        return PeerLost(f"rank {member} has left the job, and comes to no new group", rank=rank)


def _fail_all(reason: str) -> None:
    for group in list(_groups):
        group.fail(reason)


def _at_exit() -> None:
    error = getattr(sys, "last_value", None)
    if error is not None:
        _fail_all(f"{type(error).__name__}: {error}")
    leaving = [group for group in list(_groups) if group.begin_to_leave()]
    # All at once: in one, another rank may wait until this one has left another one.
    while leaving:
        leaving = [group for group in leaving if not _leave(group)]
    _core.leave_everything()


def _leave(group: _Group) -> bool:
    """Whether it has been left."""
    try:
        return group.leave(_TURN_SECONDS)
    except Exception as failure:
        # The exit code is decided; the others learn from the broken connection.
        print(f"gearshift: leaving a process group failed: {failure}", file=sys.stderr)
        return True


def _after_fork() -> None:
    """A forked child has none of the threads: the groups are its parent's."""
    for group in list(_groups):
        group.leave_to_parent()
    _groups.clear()
