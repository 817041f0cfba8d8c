"""What goes wrong while a group is formed, so that no rank waits for one that has failed."""

from __future__ import annotations

import contextlib
import json
import time

from torch.distributed import Store

from ...errors import Error, PeerLost
from ._ending import Watch

_FAILURE = "failure"
_HEARD = "heard"
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
        watch: what other groups know of its ranks.
    """

    def __init__(self, store: Store, rank: int, size: int, watch: Watch) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._watch = watch
        self._next_look = 0.0
        self._told: PeerLost | None = None

    def check(self) -> None:
        """To be called often.

        Raises:
            PeerLost: when a rank has failed; names it, and says why.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _PAUSE
        self._watch.check()
        failed = False
        with contextlib.suppress(RuntimeError):  # without its store, the group may still be formed
            failed = self._store.check([_FAILURE])
        if failed:
            news = json.loads(self._store.get(_FAILURE))
            text = f"rank {news['rank']} failed while the process group was formed: {news['why']}"
            self._told = PeerLost(text, rank=news["rank"])
            self._store.add(_HEARD, 1)
            raise self._told

    def account(self, error: BaseException) -> BaseException:
        """Why this rank cannot go on, of which all others are told."""
        if error is self._told:
            return error
        with contextlib.suppress(Exception):
            # Who stumbles over another's failure may be there before its words.
            told = self._news() if _of_another(error, self._rank) else None
            if told is not None:
                return told
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
        of = error.rank if isinstance(error, Error) and error.rank is not None else self._rank
        news = {"rank": of, "why": f"{type(error).__name__}: {error}"}
        self._store.compare_set(_FAILURE, "", json.dumps(news))
        if self._rank == 0:  # whose process may be the one that serves the store
            deadline = time.monotonic() + _MOST_PATIENCE
            while self._store.add(_HEARD, 0) < self._size - 1 and time.monotonic() < deadline:
                time.sleep(_READING)


def _of_another(error: BaseException, rank: int) -> bool:
    return isinstance(error, Error) and error.rank not in (None, rank)
