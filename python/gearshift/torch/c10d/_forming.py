"""What goes wrong while a group is formed, so that no rank waits for one that has failed."""

from __future__ import annotations

import contextlib
import json
import time

from ...errors import Error, PeerLost
from ._answering import AnsweringStore
from ._ending import Watch

_FAILURE = "failure"
_HEARD = "heard"
_SIGNS = "signs"
_PAUSE = 0.25
"""Seconds between two looks, for the store's sake."""
_READING = 0.02
"""The same where a process waits to end."""
_MOST_PATIENCE = 1.0
"""Seconds for news to be written, and to be read."""


class Forming:
    """One rank's share in forming a group: it looks out for failures, and tells its own.

    Args:
        store: of this group alone, this time.
        watch: what is known elsewhere of its ranks.
    """

    def __init__(self, store: AnsweringStore, rank: int, watch: Watch) -> None:
        self._store = store
        self._rank = rank
        self._size = len(watch.members)
        self._watch = watch
        self._next_look = 0.0
        self.found: PeerLost | None = None
        """What `check` has raised."""
        self._told: PeerLost | None = None
        """The same, where another rank has told it."""

    def check(self) -> None:
        """To be called often.

        Raises:
            PeerLost: when a rank has failed; names it, and says why.
        """
        try:
            self._look()
        except PeerLost as error:
            self.found = error
            raise

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _PAUSE
        self._watch.check()
        # Without its store, the group may still be formed.
        if self._store.has_if_there(_FAILURE):
            news = json.loads(self._store.get(_FAILURE))
            self._told = PeerLost(f"{self._who(news['rank'])}: {news['why']}", rank=news["rank"])
            with contextlib.suppress(RuntimeError):  # who has said so need not wait
                self._store.add(_HEARD, 1)
            raise self._told

    def _who(self, rank: int | None) -> str:
        if rank is None:
            return "the process group was not formed"
        return f"rank {self._watch.members[rank]} failed while the process group was formed"

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

    def _news(self) -> PeerLost | None:
        """What another rank tells, if it does soon."""
        deadline = time.monotonic() + _MOST_PATIENCE
        while time.monotonic() < deadline:
            self._next_look = 0.0
            try:
                self.check()
            except PeerLost as told:
                return told
            time.sleep(_READING)
        return None

    def _tell(self, error: BaseException) -> None:
        of = error.rank if isinstance(error, Error) else None
        if of is None and not isinstance(error, PeerLost):
            of = self._rank
        news = {"rank": of, "why": f"{type(error).__name__}: {error}"}
        self._store.set_first(_FAILURE, json.dumps(news))
        if self._rank == 0:  # whose process may be the one that serves the store
            deadline = time.monotonic() + _MOST_PATIENCE
            while self._store.add(_HEARD, 0) < self._size - 1 and time.monotonic() < deadline:
                time.sleep(_READING)


class Signs:
    """Of rank 0, that it lives: all others wait for it while it waits for all to come.

    Args:
        store: of this group alone, this time.
        timeout: seconds without a sign after which it is lost.
    """

    def __init__(self, store: AnsweringStore, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        self._interval = min(timeout / 6, 1.0)
        self._next = self._changed = 0.0
        self._seen = 0

    def give(self) -> None:
        """To be called often, by rank 0."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._interval
            self._store.add(_SIGNS, 1)

    def check(self) -> None:
        """To be called often, by the others.

        Raises:
            PeerLost: when it has come and does not live.
        """
        now = time.monotonic()
        if now < self._next:
            return
        # This process may be what has stood still.
        awake = now < self._next + self._interval
        self._next = now + self._interval
        seen = self._store.add(_SIGNS, 0)
        if seen != self._seen or not awake:
            self._seen, self._changed = seen, now
        elif seen > 0 and now - self._changed >= self._timeout:
            silent = f"has been silent for {now - self._changed:.1f} s"
            why = f"rank 0 {silent} while the process group was formed: it has died, or is frozen"
            raise PeerLost(why, rank=0)


def _of_another(error: BaseException, rank: int) -> bool:
    return isinstance(error, Error) and error.rank not in (None, rank)
