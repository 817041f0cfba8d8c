"""What goes wrong while a group is formed, so that no rank waits for one that has failed."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

from ...errors import Error, PeerLost, TimeoutError
from ._answering import AnsweringStore
from ._ending import Watch

_FAILURE = "failure"
_HEARD = "heard"
_PAUSE = 0.25
"""Seconds between two looks, for the store's sake."""
_READING = 0.02
"""The same where a process waits to end."""
_STOOD_STILL = 0.5
"""Seconds too late from one look to the next, after which this process may have been stopped."""
_MOST_PATIENCE = 1.0
"""Seconds for news to be written, and to be read."""


class Forming:
    """One rank's share in forming a group: it looks out for failures, and tells its own.

    Args:
        store: of this group alone, this time.
        watch: what is known elsewhere of its ranks.
        timeout: seconds without a sign of life after which a rank is lost.
    """

    def __init__(self, store: AnsweringStore, rank: int, watch: Watch, timeout: float) -> None:
        self._store = store
        self._rank = rank
        self._size = len(watch.members)
        self._watch = watch
        self._next_look = 0.0
        self._signs = Signs(store, rank, watch.members, timeout)
        self.found: Error | None = None
        """What `check` has raised."""
        self._told: Error | None = None
        """The same, where another rank has told it."""

    def begin(self) -> None:
        """From now on this rank gives signs of life."""
        self._signs.begin()

    def end(self, formed: bool) -> None:
        """Whether the group is formed on this rank, and says itself from now on that it lives."""
        self._signs.end(formed)

    def check(self) -> None:
        """To be called often.

        Raises:
            PeerLost: when a rank has failed; names it, and says why.
            TimeoutError: when another rank has waited in vain.
        """
        try:
            self._look()
        except (PeerLost, TimeoutError) as error:
            self.found = error
            raise

    def _look(self) -> None:
        self._signs.check()
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _PAUSE
        self._watch.check()
        # Without its store, the group may still be formed.
        if self._store.has_if_there(_FAILURE):
            self._told = self._loss(json.loads(self._store.get(_FAILURE)))
            with contextlib.suppress(RuntimeError):  # who has said so need not wait
                self._store.add(_HEARD, 1)
            raise self._told

    def _loss(self, news: dict[str, Any]) -> Error:
        """What another rank has told."""
        kind = TimeoutError if news["late"] else PeerLost
        return kind(news["why"], rank=news["rank"])

    def _why(self, error: BaseException, rank: int | None, late: bool) -> str:
        """As the others are to read it."""
        if late or error is self.found:
            return str(error)
        who = "the process group was not formed"
        if rank is not None:
            who = f"rank {self._watch.members[rank]} failed while the process group was formed"
        return f"{who}: {type(error).__name__}: {error}"

    def account(self, error: BaseException) -> BaseException:
        """Why this rank cannot go on, of which all others are told."""
        if error is self._told:
            return error
        self._store.only_words_follow()
        with contextlib.suppress(Exception):
            # Who stumbles over another's failure may be there before its words.
            told = self._news() if _of_another(error, self._rank) else None
            error = told or error
            if error is not self._told:
                self._tell(error)
        return error

    def _news(self) -> Error | None:
        """What another rank tells, if it does soon."""
        deadline = time.monotonic() + _MOST_PATIENCE
        while time.monotonic() < deadline:
            self._next_look = 0.0
            try:
                self.check()
            except (PeerLost, TimeoutError) as told:
                return told
            time.sleep(_READING)
        return None

    def _tell(self, error: BaseException) -> None:
        of = error.rank if isinstance(error, Error) else None
        if of is None and not isinstance(error, PeerLost):
            of = self._rank
        late = isinstance(error, TimeoutError) and of is not None
        news = {"rank": of, "why": self._why(error, of, late), "late": late}
        self._store.set_first(_FAILURE, json.dumps(news))
        if self._rank == 0:  # whose process may be the one that serves the store
            deadline = time.monotonic() + _MOST_PATIENCE
            while self._store.add(_HEARD, 0) < self._size - 1 and time.monotonic() < deadline:
                time.sleep(_READING)


class Signs:
    """Of each rank that has come, that it lives: rank 0 looks for those of all others, for whom it
    waits, and they for those of rank 0.

    A thread gives them, so that they do not depend on what this rank is at.

    Args:
        store: of this group alone, this time.
        members: the numbers of its ranks in the job.
        timeout: seconds without a sign after which a rank is lost.
    """

    _FORMED = 1 << 40
    """More signs than any rank gives: it needs to give none."""

    def __init__(
        self, store: AnsweringStore, rank: int, members: list[int], timeout: float
    ) -> None:
        self._store = store
        self._own = _sign_key(rank)
        self._members = members
        self._timeout = timeout
        self._interval = min(timeout / 6, 1.0)
        self._next = 0.0
        self._others = [0] if rank != 0 else list(range(1, len(members)))
        self._seen = dict.fromkeys(self._others, 0)
        self._changed = dict.fromkeys(self._others, 0.0)
        self._ended = threading.Event()

    def begin(self) -> None:
        threading.Thread(target=self._give, name="gearshift signs", daemon=True).start()

    def end(self, formed: bool) -> None:
        """No more signs are given; whether the others may do without."""
        self._ended.set()
        if formed:
            self._store.tell(self._own, self._FORMED)

    def _give(self) -> None:
        with contextlib.suppress(Error):  # closed
            while not self._ended.is_set():
                self._store.tell(self._own, 1)
                self._ended.wait(self._interval)

    def check(self) -> None:
        """To be called often.

        Raises:
            PeerLost: when a rank has come and does not live.
        """
        now = time.monotonic()
        if now < self._next:
            return
        # This process may be what has stood still.
        awake = now < self._next + max(self._interval, _STOOD_STILL)
        self._next = now + self._interval
        seen = self._store.counts([_sign_key(other) for other in self._others])
        for other, count in zip(self._others, seen, strict=True):
            if count != self._seen[other] or not awake:
                self._seen[other], self._changed[other] = count, now
            elif 0 < count < self._FORMED and now - self._changed[other] >= self._timeout:
                raise self._silent(other, now - self._changed[other])

    def _silent(self, rank: int, seconds: float) -> PeerLost:
        who = f"rank {self._members[rank]} has been silent for {seconds:.1f} s"
        return PeerLost(
            f"{who} while the process group was formed: it has died, or is frozen", rank=rank
        )


def _sign_key(rank: int) -> str:
    return f"signs/{rank}"


def _of_another(error: BaseException, rank: int) -> bool:
    return isinstance(error, Error) and error.rank not in (None, rank)
