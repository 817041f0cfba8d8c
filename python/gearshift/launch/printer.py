"""Prints for a launcher that must not wait for whoever reads.

A pager shows one page, Ctrl-S holds a terminal up, a connection is slow: while nobody reads, who
writes stands still. The launcher would, then the processes whose output it takes, and after their
timeout the others would give them up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator

ROOM = 32 << 20
"""Bytes that wait for a reader, about."""

_PIECE = 4096
"""A pipe takes so much as a whole."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOOK = 0.01


class Outlet:
    """A descriptor. What cannot be written is left out: that must not end a job.

    `on_failure` is told once. Where there may be room again, what comes next is tried again.
    """

    def __init__(self, descriptor: int, on_failure: Callable[[OSError], None]) -> None:
        self._descriptor: int | None = descriptor
        self._on_failure = on_failure
        self._failed = False

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._descriptor is None

    def write(self, data: bytes | memoryview) -> None:
        """Write all of it, however long that takes."""
        if self._descriptor is None:
            return
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                self._descriptor = None
            if not self._failed:
                self._failed = True
                self._on_failure(error)


class Printer:
    """Writes lines to an outlet, on a thread of its own.

    Up to `room` bytes wait for who reads. Beyond, :meth:`put` waits while reading goes on; when
    nothing has been read for `patience` seconds, lines are left out, and where they are missing
    stands how many. Thread-safe; :meth:`put` may be called by a signal handler.

    Args:
        outlet: where they go.
        patience: in seconds; None: whoever puts a line waits until there is room.
        room: in bytes.
    """

    def __init__(self, outlet: Outlet, *, patience: float | None, room: int = ROOM) -> None:
        self._outlet = outlet
        self._patience = patience
        self._room = room
        self._queue: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        # Not exact, where a signal comes in between: what a handler puts may be left out of it.
        self._put_bytes = 0
        self._written_bytes = 0
        self._moved_at = 0.0
        self._left_out = 0
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, lines: list[bytes]) -> None:
        """Have lines written, each with its newline; those of one call at once, where they fit."""
        if self._outlet.closed or not lines:
            return
        if not self._start():
            self._outlet.write(b"".join(lines))
            return
        while self._is_full() and not self._is_stuck():
            time.sleep(_LOOK)
        if self._is_full():
            self._left_out += len(lines)
            return
        self._mention_missing()
        self._append(b"".join(lines))

    def finish(self, patience: float | None = None) -> None:
        """Wait until all has been written.

        Args:
            patience: seconds without progress after which this ends all the same.
        """
        if self._thread is None:
            return
        self._mention_missing()
        written = threading.Event()
        self._queue.put(written)
        while not written.wait(_LOOK) and not self._is_over(patience):
            pass
        self._thread = None
        self._starting = threading.Lock()

    def _mention_missing(self) -> None:
        missing, self._left_out = self._left_out, 0
        if missing > 0:
            self._append(
                f"gearshift run: {missing} line{'s' if missing > 1 else ''} left out here, since "
                "nobody has read for a while\n".encode()
            )

    def _append(self, data: bytes) -> None:
        if self._waiting() <= 0:
            self._moved_at = time.monotonic()
        self._put_bytes += len(data)
        self._queue.put(data)

    def _waiting(self) -> int:
        return self._put_bytes - self._written_bytes

    def _is_full(self) -> bool:
        return self._waiting() >= self._room and not self._outlet.closed

    def _is_stuck(self) -> bool:
        return self._is_over(self._patience)

    def _is_over(self, patience: float | None) -> bool:
        return patience is not None and time.monotonic() - self._moved_at >= patience

    def _start(self) -> bool:
        """False where there is no thread to have."""
        if self._starting.acquire(blocking=False):
            thread = threading.Thread(target=self._write, name="printer", daemon=True)
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._thread = thread
        return self._thread is not None

    def _write(self) -> None:
        while not isinstance(item := self._queue.get(), threading.Event):
            for piece in _pieces(item):
                self._outlet.write(piece)
                self._written_bytes += len(piece)
                self._moved_at = time.monotonic()
        item.set()


def _pieces(data: bytes) -> Iterator[memoryview]:
    """So small that each that is written shows that somebody reads; whole lines where they fit."""
    view = memoryview(data)
    begin = 0
    while begin < len(data):
        end = min(begin + _PIECE, len(data))
        if end < len(data):
            end = (data.rfind(b"\n", begin, end) + 1) or end
        yield view[begin:end]
        begin = end


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write to a descriptor, whether it blocks or not."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            with contextlib.suppress(InterruptedError):
                select.select([], [descriptor], [], 1.0)
