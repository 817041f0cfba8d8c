"""Simulations in processes of their own, several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import IO, Any, BinaryIO

from ..errors import Error, from_core
from . import messages
from .forks import Forked, Forks
from .messages import Request

_LAST_LINES = 12

_WORTH_FORKS = 3
"""Simulations that learn, together, from which on torch is imported once for all of them."""

_Child = subprocess.Popen[bytes] | Forked

OnStep = Callable[[int], None]
"""Called with the number of steps that worker 0 has done."""


class Pool:
    """Runs simulations, at most `jobs` at once; by default as many as there are cores.

    When a call ends with an exception, Ctrl-C included, no process is left.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs or len(os.sched_getaffinity(0))
        self._running: set[_Child] = set()
        self._stopped = False
        self._forking = False
        self._forks: Forks | None = None
        self._lock = threading.Lock()

    def run(self, request: Request, on_step: OnStep | None = None) -> dict[str, Any]:
        """One simulation; returns what the core does.

        Raises:
            Error: what the simulation raised, or that its process broke down.
        """
        data = messages.encode(request)
        with tempfile.TemporaryFile() as errors:
            forks = self._forks_for(request)
            child = self._start(errors, forks)
            try:
                return _converse(child, data, on_step or (lambda step: None), errors)
            finally:
                self._end(child)

    def run_all(
        self,
        requests: Sequence[Request],
        on_done: Callable[[int, dict[str, Any] | Error], None],
        on_steps: OnStep | None = None,
    ) -> None:
        """All of them, in any order; each result, or what it failed with, goes to `on_done`.

        `on_done` gets the index of the request, and is called in the calling thread; `on_steps` is
        called in others, with how many more steps a worker 0 has done.
        """
        self._forking = sum(request.train is not None for request in requests) >= _WORTH_FORKS
        executor = ThreadPoolExecutor(self.jobs)
        futures: dict[Future[dict[str, Any] | Error], int] = {}
        try:  # Ctrl-C may come while they begin
            for number, request in enumerate(requests):
                futures[executor.submit(self._try, request, _increments(on_steps))] = number
            for future in as_completed(futures):
                on_done(futures[future], future.result())
        except BaseException:
            self._stop(futures)
            raise
        finally:
            executor.shutdown()
            if self._forks is not None:
                self._forks.close()
            self._forks, self._forking = None, False

    def _try(self, request: Request, on_step: OnStep | None) -> dict[str, Any] | Error:
        try:
            return self.run(request, on_step)
        except Error as error:
            return error

    def _forks_for(self, request: Request) -> Forks | None:
        """The process to fork from, if that is worth while and works here."""
        if request.train is None or not self._forking:
            return None
        with self._lock:
            if self._forks is None and not self._stopped:
                self._forks = Forks(_environment())
            forks = self._forks
        return forks if forks is not None and forks.usable() else None

    def _start(self, errors: IO[bytes], forks: Forks | None) -> _Child:
        with self._lock:
            if self._stopped:
                raise Error("stopped")
            child = _forked(forks, errors) or subprocess.Popen(
                [sys.executable, "-P", "-m", "gearshift.sim.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(),
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
            )
            self._running.add(child)
        return child

    def _end(self, child: _Child) -> None:
        child.kill()
        child.communicate()
        with self._lock:
            self._running.discard(child)

    def _stop(self, futures: Iterable[Any]) -> None:
        for future in futures:
            future.cancel()
        with self._lock:
            self._stopped = True
            if self._forks is not None:
                self._forks.kill()
            for child in self._running:
                child.kill()


def _forked(forks: Forks | None, errors: IO[bytes]) -> Forked | None:
    if forks is None:
        return None
    try:
        return forks.start(errors)
    except OSError:  # it was killed: by whoever found too little memory
        return None


def _environment() -> dict[str, str]:
    """Ours, for a process that imports what we can, and whose memory lies on large pages if the
    system has them: what thousands of workers look at, here and there, is more than the processor
    finds at once on small ones (30 to 50 % of the time).

    NumPy has one thread there, as torch has, unless the user says otherwise: as many simulations
    run at once as there are cores.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" not in tunables:
        tunables = ":".join(filter(None, (tunables, "glibc.malloc.hugetlb=1")))
    path = os.pathsep.join(path for path in sys.path if path)
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OPENBLAS_NUM_THREADS": "1"}
    return {**threads, **os.environ, "PYTHONPATH": path, "GLIBC_TUNABLES": tunables}


def _increments(on_steps: OnStep | None) -> OnStep | None:
    """Turns the numbers of steps into how many have come; those that are repeated do not count."""
    if on_steps is None:
        return None
    done = 0

    def on_step(step: int) -> None:
        nonlocal done
        if step > done:
            on_steps(step - done)
            done = step

    return on_step


def _converse(child: _Child, request: bytes, on_step: OnStep, errors: IO[bytes]) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(request)
        child.stdin.flush()
        return _result(child.stdout, on_step)
    except (EOFError, BrokenPipeError) as error:
        raise _breakdown(child, errors) from error


def _result(out: IO[bytes] | BinaryIO, on_step: OnStep) -> dict[str, Any]:
    while True:
        kind, payload = messages.read(out)  # type: ignore[arg-type]
        if kind == "step":
            on_step(payload)
        elif kind == "error":
            code, text, rank = payload
            raise from_core(code, text, -1 if rank is None else rank)
        else:
            return payload


def _breakdown(child: _Child, errors: IO[bytes]) -> Error:
    code = child.wait()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    if code == -signal.SIGKILL:
        how += " (out of memory?)"
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
    said = "".join(f"\n  {line}" for line in lines)
    return Error(f"the simulation's process {how}" + (f"; it said:{said}" if said else ""))
