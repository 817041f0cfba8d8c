"""Operations under way: a thread that does them in order, and the handles that wait for them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import Work

from ...errors import Error, TimeoutError


class Operation(Work):
    """One operation of a process group: what torch calls a Work.

    Thread-safety: all methods.
    """

    def __init__(self, run: Callable[[], None], tensors: list[Tensor], source: int = -1) -> None:
        super().__init__()
        self._run: Callable[[], None] | None = run
        self._tensors = tensors
        self._source = source
        self._finished = False
        self._latch = threading.Lock()  # taken until it is done; cheaper than an Event
        self._latch.acquire()
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._future: torch.futures.Future[Any] | None = None

    def perform(self) -> None:
        """Do it. Called once, by the lane."""
        run, self._run = self._run, None
        assert run is not None
        try:
            with torch.no_grad():
                run()
        except Exception as error:
            self._finish(error)
        except BaseException:
            self._finish(Error("the operation was interrupted"))
            raise
        else:
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        with self._lock:
            self._error = error
            self._finished = True
            future = self._future
        self._latch.release()
        if future is not None:
            self._settle(future)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait until it is done.

        Args:
            timeout: None or 0: as long as the operation's own time limit lets it take.

        Raises:
            Error: what became of the operation; TimeoutError when `timeout` has passed.
        """
        limit = timeout.total_seconds() if timeout is not None else 0.0
        if not self._finished:
            if not self._latch.acquire(timeout=limit if limit > 0 else -1):
                raise TimeoutError(f"the operation was not done within {limit:g} s")
            self._latch.release()
        if self._error is not None:
            raise self._error
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
        """A future with the list of result tensors."""
        with self._lock:
            if self._future is not None:
                return self._future
            future: torch.futures.Future[Any] = torch.futures.Future()
            self._future = future
            if not self._finished:
                return future
        self._settle(future)
        return future

    def _settle(self, future: torch.futures.Future[Any]) -> None:
        if self._error is None:
            future.set_result(self._tensors)
        else:
            future.set_exception(self._error)


class Lane:
    """Operations one after another, from the first one on: by a thread, or by who waits for them.

    Thread-safety: all methods.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        """Held by whoever performs an operation."""
        self._waiting = 0
        """Operations that the thread has been given and has not done."""
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, operation: Operation) -> Operation:
        """Have the thread perform it."""
        with self._lock:
            self._put(operation)
        return operation

    def perform(self, operation: Operation) -> Operation:
        """Have it performed: here, if there is nothing to wait for. Its caller waits for it."""
        with self._lock:
            here = self._waiting == 0 and not self._closed and self._busy.acquire(blocking=False)
            if not here:
                self._put(operation)
        if here:
            try:
                operation.perform()
            finally:
                self._busy.release()
        return operation

    def close(self) -> None:
        """End once all that was submitted is done; does not wait for that."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)

    def join(self, seconds: float) -> bool:
        """Wait for the end. Whether it came."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)
            return not self._thread.is_alive()
        return True

    def _put(self, operation: Operation) -> None:
        if self._closed:
            raise Error("this process group was destroyed", code="closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        self._waiting += 1
        self._queue.put(operation)

    def _loop(self) -> None:
        while (operation := self._queue.get()) is not None:
            with self._busy:
                operation.perform()
            operation = None  # its tensors are not this thread's to keep
            with self._lock:
                self._waiting -= 1
