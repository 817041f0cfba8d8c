"""Operations under way: a thread that does them in order, and the handles that wait for them."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import Work

from ...errors import Error, TimeoutError


def note_on(members: list[int]) -> str:
    """For errors of a group, which have the numbers of its ranks there: those in the job."""
    if members == list(range(len(members))):
        return ""
    return f"\nranks 0 to {len(members) - 1} of this process group are {members} of the job"


def add_note(error: Exception, note: str) -> None:
    """Once, to one that blames a rank."""
    if isinstance(error, Error) and error.rank is not None and not str(error).endswith(note):
        error.args = (f"{error}{note}",)


class Operation(Work):
    """One operation of a process group: what torch calls a Work.

    Args:
        note: added to the text of an error that blames a rank.

    Thread-safety: all methods.
    """

    def __init__(
        self, run: Callable[[], None], tensors: list[Tensor], source: int = -1, note: str = ""
    ) -> None:
        super().__init__()
        self._run: Callable[[], None] | None = run
        self._tensors = tensors
        self._source = source
        self._note = note
        self._finished = False
        self._latch = threading.Lock()  # taken until it is done; cheaper than an Event
        self._latch.acquire()
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._lane: Lane | None = None
        self._ended: torch.futures.Future[None] | None = None
        self._future: Any = None

    def perform(self) -> None:
        """Do it. Called once, by the lane."""
        run, self._run = self._run, None
        assert run is not None
        try:
            with torch.no_grad():
                run()
        except Exception as error:
            add_note(error, self._note)
            self._error = error
        except BaseException:
            self._error = Error("the operation was interrupted")
            raise
        finally:
            self._finish()

    def _finish(self) -> None:
        with self._lock:
            self._finished = True
            ended = self._ended
        self._latch.release()
        if ended is not None:
            self._announce(ended)

    def _announce(self, ended: torch.futures.Future[None]) -> None:
        """Run the callbacks of the future."""
        ended.set_result(None)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait until it is done.

        Args:
            timeout: None or 0: as long as the operation's own time limit lets it take.

        Raises:
            Error: what became of the operation; TimeoutError when `timeout` has passed.
        """
        self._be_next()
        limit = timeout.total_seconds() if timeout is not None else 0.0
        if not self.await_end(limit if limit > 0 else -1):
            raise TimeoutError(f"the operation was not done within {limit:g} s")
        if self._error is not None:
            raise self._error
        return True

    def await_end(self, seconds: float) -> bool:
        """Whether it is done, in any way, within so many seconds; -1 for as long as it takes."""
        if not self._finished:
            if not self._latch.acquire(timeout=seconds):
                return False
            self._latch.release()
        return True

    def is_completed(self) -> bool:
        return self._finished

    def is_success(self) -> bool:
        return self._finished and self._error is None

    def exception(self) -> Exception | None:
        return self._error

    def result(self) -> list[Tensor]:
        self.wait()
        return self._tensors

    def synchronize(self) -> None:
        self.wait()

    def source_rank(self) -> int:
        return self._source

    def _source_rank(self) -> int:
        return self._source

    def get_future(self) -> Any:
        """A future with the list of result tensors, or with a RuntimeError that has the text of
        what became of the operation."""
        with self._lock:
            late = self._ended is None and self._finished
            if self._ended is None:
                self._ended = torch.futures.Future()
                # What C++ knows as an error is one that a callback raises: DDP would take what
                # set_exception sets for tensors.
                self._future = self._ended.then(lambda _: self._outcome())
        if late:
            self._ended.set_result(None)
        self._be_next()  # its own wait is not seen here
        return self._future

    def performed_by(self, lane: Lane) -> None:
        """Called by the lane that has taken it."""
        self._lane = lane

    def _be_next(self) -> None:
        """Callbacks of futures run in a lane's thread, which cannot wait for itself."""
        if self._lane is not None and not self._finished:
            self._lane.go_on_until(self)

    def _outcome(self) -> list[Tensor]:
        if self._error is not None:
            raise self._error
        return self._tensors


class Lane:
    """Operations one after another, from the first one on: by a thread, or by who waits for them.

    Those that a future's callback asks for in this thread follow the one that it belongs to, before
    all that had been asked for: whether the callback was there in time is another question on each
    rank, but the order of operations must not be.

    Thread-safety: all methods.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._first: deque[Operation] = deque()
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        """Held by whoever performs an operation."""
        self._waiting = 0
        """Operations that the thread has been given and has not done."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self._why_closed = ""

    def submit(self, operation: Operation) -> Operation:
        """Have the thread perform it."""
        with self._lock:
            self._put(operation)
        return operation

    def perform(self, operation: Operation) -> Operation:
        """Have it performed: here, if there is nothing to wait for. Its caller waits for it."""
        with self._lock:
            here = (
                self._waiting == 0  # so this is no callback in the lane's thread
                and not self._closed
                and self._busy.acquire(blocking=False)
            )
            if not here:
                self._put(operation)
        if here:
            try:
                operation.perform()
            finally:
                self._busy.release()
        return operation

    def close(self, why: str = "this process group was destroyed") -> None:
        """End once all that was submitted is done; does not wait for that."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._why_closed = why
            self._queue.put(None)

    def join(self, seconds: float) -> bool:
        """Wait for the end. Whether it came."""
        if self._thread is threading.current_thread():
            return True
        deadline = time.monotonic() + seconds
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
        # Another thread may perform one by itself.
        ended = self._busy.acquire(timeout=max(0.0, deadline - time.monotonic()))
        if ended:
            self._busy.release()
        return ended

    def go_on_until(self, operation: Operation) -> None:
        """Perform what comes before it, and it, if this is the lane's thread: in a callback."""
        while self._thread is threading.current_thread() and not operation.is_completed():
            following = self._take()
            if following is None:  # closed: nothing comes after this
                self._queue.put(None)
                return
            self._do(following)

    def _put(self, operation: Operation) -> None:
        if self._closed:
            raise Error(self._why_closed, code="closed")
        if self._thread is None:
            thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        operation.performed_by(self)
        self._waiting += 1
        if self._thread is threading.current_thread():
            self._first.append(operation)
        else:
            self._queue.put(operation)

    def _take(self) -> Operation | None:
        return self._first.popleft() if self._first else self._queue.get()

    def _do(self, operation: Operation) -> None:
        """With the callbacks of its future."""
        operation.perform()
        with self._lock:
            self._waiting -= 1

    def _loop(self) -> None:
        while (operation := self._take()) is not None:
            with self._busy:
                self._do(operation)
            operation = None  # its tensors are not this thread's to keep
