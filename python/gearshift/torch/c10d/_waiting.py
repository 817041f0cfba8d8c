"""What a rank that waits for others says meanwhile, and how it waits where PyTorch does."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_FIRST = 10.0
"""Seconds until it is told who is waited for."""
_LOOK = 0.1


class Notices:
    """When it is time to tell who is waited for: soon, and ever more seldom."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._gap = _FIRST
        self._next = self._began + self._gap

    def due(self) -> bool:
        """Whether it is time for one, which the caller then gives."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._gap *= 2
        self._next = now + self._gap
        return True

    def give(self, text: str) -> None:
        print(f"gearshift: {text} ({self.waited():.0f} s so far)", file=sys.stderr, flush=True)

    def waited(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began


def patiently(run: Callable[[], _T], notices: Notices, awaited: str) -> _T:
    """What `run` returns or raises. It runs in a thread, so that Ctrl-C ends the wait for it.

    Args:
        awaited: who is waited for, as told meanwhile.
    """
    results: list[_T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def body() -> None:
        try:
            results.append(run())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=body, name="gearshift rendezvous", daemon=True).start()
    while not done.wait(_LOOK):
        if notices.due():
            notices.give(f"waiting for {awaited}")
    if errors:
        raise errors[0]
    return results[0]
