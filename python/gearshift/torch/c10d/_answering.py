"""The store of a process group, where nobody waits for ever for whoever serves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch.distributed import PrefixStore, Store

from ...errors import Error, PeerLost
from ._ending import Watch
from ._work import Lane, Operation

_T = TypeVar("_T")
_TURN = 0.05
"""Seconds from one look at what the groups of this process know to the next."""
_NEWS_SECONDS = 2.0
"""For those groups to find out who does not answer."""
_WORDS_SECONDS = 1.0
"""For what is said at the end."""


class AnsweringStore:
    """A store of torch's whose operations end, also where its server stands still, or a process
    that has locked its file.

    A thread of this object's does them; whoever asks looks out meanwhile for ranks that are lost,
    and for Ctrl-C.

    Args:
        watch: what is known of the ranks.
        patience: seconds to wait for an answer.
    """

    def __init__(self, store: Store, watch: Watch, patience: float) -> None:
        self._store = store
        self._watch = watch
        self._limit = patience + _NEWS_SECONDS
        self._look = watch.check
        self._lane = Lane("gearshift store")

    def go_below(self, prefix: str) -> None:
        """Keys have this prefix from now on."""
        self._store = PrefixStore(prefix, self._store)

    def has(self, key: str) -> bool:
        return self._do(lambda: self._store.check([key]))

    def has_if_there(self, key: str) -> bool:
        """False where the store has gone, too."""
        try:
            return self._answer(lambda: self._store.check([key]))
        except Error:
            raise
        except RuntimeError:
            return False

    def get(self, key: str) -> str:
        """The value of a key that is there."""
        return self._do(lambda: self._store.get(key)).decode()

    def set(self, key: str, value: str) -> None:
        self._do(lambda: self._store.set(key, value))

    def set_first(self, key: str, value: str) -> None:
        """Unless there is a value."""
        self._do(lambda: self._store.compare_set(key, "", value))

    def add(self, key: str, number: int) -> int:
        return self._do(lambda: self._store.add(key, number))

    def tell(self, key: str, number: int) -> None:
        """Add to a key some time, without waiting for an answer."""
        store = self._store

        def add() -> None:
            store.add(key, number)

        self._lane.submit(Operation(add, []))

    def counts(self, keys: Sequence[str]) -> list[int]:
        """What has been added to each of these keys."""
        return self._do(lambda: [self._store.add(key, 0) for key in keys])

    def which(self, keys: Sequence[str]) -> list[bool]:
        """Which of these keys are there."""
        return self._do(lambda: [self._store.check([key]) for key in keys])

    def only_words_follow(self) -> None:
        """This rank gives up, and says so: soon, or not at all."""
        self._limit = _WORDS_SECONDS
        self._look = lambda: None

    def close(self) -> None:
        self._lane.close()

    def _do(self, run: Callable[[], _T]) -> _T:
        try:
            return self._answer(run)
        except Error:
            raise
        except RuntimeError as error:
            raise self._gone(str(error)) from error

    def _answer(self, run: Callable[[], _T]) -> _T:
        answers: list[_T] = []
        operation = self._lane.submit(Operation(lambda: answers.append(run()), []))
        # Counted in turns: time in which this process is stopped does not count.
        for _ in range(round(self._limit / _TURN)):
            if operation.await_end(_TURN):
                break
            self._look()
        else:
            raise _lost(f"has not answered for {self._limit:g} s")
        operation.wait()
        return answers[0]

    def _gone(self, why: str) -> Error:
        """Whose end it is may be known in a moment."""
        deadline = time.monotonic() + min(_NEWS_SECONDS, self._limit)
        while time.monotonic() < deadline:
            self._look()
            left = self._watch.has_left(0)
            if left is not None:
                return left
            time.sleep(_TURN)
        return _lost(f"has gone ({why})")


def _lost(what: str) -> PeerLost:
    return PeerLost(
        f"the store by which the process group is formed {what}: whoever serves it (rank 0 of the "
        "job, unless its launcher does) has ended, or stands still"
    )
