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
        self._done = threading.Event()
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
            self._error = error
        with self._lock:
            self._done.set()
            future = self._future
        if future is not None:
            self._settle(future)

    def give_up(self, error: Exception) -> None:
        """It will never be done."""
        self._run = None
        with self._lock:
            self._error = error
            self._done.set()
            future = self._future
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
        if not self._done.wait(limit if limit > 0 else None):
            raise TimeoutError(f"the operation was not done within {limit:g} s")
        if self._error is not None:
            raise self._error
        return True

    def is_completed(self) -> bool:
        return self._done.is_set()

    def is_success(self) -> bool:
        return self._done.is_set() and self._error is None

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
            if not self._done.is_set():
                return future
        self._settle(future)
        return future

    def _settle(self, future: torch.futures.Future[Any]) -> None:
        if self._error is None:
            future.set_result(self._tensors)
        else:
            future.set_exception(self._error)


class Lane:
    """A thread that performs operations one after another, from the first one on.

    Thread-safety: all methods.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, operation: Operation) -> Operation:
        with self._lock:
            if self._closed:
                raise Error("this process group was destroyed", code="closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            self._queue.put(operation)
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

    def _loop(self) -> None:
        while (operation := self._queue.get()) is not None:
            operation.perform()
            operation = None  # its tensors are not this thread's to keep
