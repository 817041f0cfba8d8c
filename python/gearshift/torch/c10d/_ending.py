"""The process groups of this process, and what becomes of them when it ends, or is forked."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import time
import weakref
from typing import Any, Protocol

from ... import _core
from ..._exit import note_exits
from ..._session import die_of
from ...errors import Error, PeerLost
from ._messages import Messages
from ._work import Lane

ABORTED = "the process group was aborted"
_DESTROYED = "the process group was destroyed with operations under way"


class _Group(Protocol):
    members: list[int]

    def failure(self) -> Error | None: ...
    def has_left(self, rank: int) -> bool: ...
    def begin_to_leave(self) -> bool: ...
    def leave(self, seconds: float) -> bool: ...
    def give_up(self, reason: str) -> None: ...
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
    """What is known of the ranks that a new group waits for.

    All groups are made in the one of the whole job, and torch asks all of its ranks to come: when
    it has failed, there are no more. Where that one is another backend's, the groups of this
    process tell of the ranks that the new one waits for.

    Args:
        members: the ranks of the new group, by their numbers in the job.
        everyone: the group of the whole job, if this backend has made it.
    """

    def __init__(self, members: list[int], everyone: _Group | None) -> None:
        self.members = members
        self._everyone = everyone

    def check_job(self) -> None:
        """Raises when the group of the whole job has failed; all ranks learn of that by it."""
        error = None if self._everyone is None else self._everyone.failure()
        if error is None:
            return
        why = f"no more groups are formed: {error}"
        if error.rank is None or self._everyone is None:
            raise Error(why, code=error.code) from error
        raise self._loss(why, self._everyone.members[error.rank]) from error

    def check(self) -> None:
        """Raises PeerLost when the new group cannot be; `rank` is that of one of its own."""
        self.check_job()
        if self._everyone is not None:
            return
        for group in list(_groups):
            error = group.failure()
            if error is None or not _of_process(error) or error.rank is None:
                continue
            rank = group.members[error.rank]
            if rank in self.members:
                raise self._loss(str(error), rank)

    def has_left(self, rank: int) -> PeerLost | None:
        """When this rank of the job has left it."""
        if self._everyone is None or not self._everyone.has_left(rank):
            return None
        return self._loss(f"rank {rank} has left the job, and comes to no new group", rank)

    def _loss(self, why: str, rank: int) -> PeerLost:
        member = self.members.index(rank) if rank in self.members else None
        return PeerLost(why, rank=member)


def _of_process(error: Error) -> bool:
    """Whether the rank that has ended a group is lost to all: it may be well, and have given up
    that one alone."""
    who = f"rank {error.rank} reported aborted: "
    return isinstance(error, PeerLost) and not str(error).startswith(
        (who + ABORTED, who + _DESTROYED)
    )


def _fail_all(reason: str) -> None:
    for group in list(_groups):
        group.fail(reason)


def _at_exit() -> None:
    error = getattr(sys, "last_value", None)
    if error is not None:
        _fail_all(f"{type(error).__name__}: {error}")
    leaving = [group for group in list(_groups) if group.begin_to_leave()]
    try:
        # All at once: in one, another rank may wait until this one has left another one.
        while leaving:
            leaving = [group for group in leaving if not _leave(group)]
    except KeyboardInterrupt:
        print("gearshift: interrupted while leaving the process groups", file=sys.stderr)
        for group in leaving:
            group.give_up("interrupted (SIGINT)")
        die_of(signal.SIGINT)
    finally:
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
