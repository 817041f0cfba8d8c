"""This process's part in the job: one session, from init to shutdown."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import logging
import multiprocessing
import numbers
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import Any

from . import _core
from ._exit import note_exits
from .errors import Error, InvalidArgument, PeerLost, TimeoutError, Unsupported
from .launch import DEFAULT_TIMEOUT, EXIT_PEER_LOST, LaunchError
from .launch.environment import ProcessEnvironment, detect, lonely_notice
from .launch.streams import open_missing

_log = logging.getLogger("gearshift")


@dataclass
class _Process:
    """What this process knows of the job. Changed only by init, shutdown and fork."""

    session: _core.Session | None = None
    environment: ProcessEnvironment = field(default_factory=ProcessEnvironment)
    rank: int = 0
    world_size: int = 1
    failed: bool = False
    left: bool = False
    """Has been in a session that ended."""
    closing: list[Callable[[bool], None]] = field(default_factory=list)
    """Called before the session closes: models leave their servers."""
    settle: Callable[[], None] | None = None
    """Called before the user's collectives."""
    hooks_installed: bool = False
    exceptions_hooked: bool = False
    forked: bool = False
    """A child of a process with a session: it knows its numbers, and has no part in the job."""


_process = _Process()
_lock = threading.RLock()


def init(timeout: float | None = None, **overrides: Any) -> None:
    """Join the job that this process was started for, and wait until all others have.

    The environment says which job that is (see :mod:`gearshift.launch.environment`); a script that
    runs alone becomes a world of one. Further calls do nothing; after :func:`shutdown`, all
    processes of a job may join it again (where no dedicated servers have ended with it, and rank 0
    serves the rendezvous, not `gearshift store`). A dedicated server process serves here until the
    job is over, and then exits: nothing after this call runs in it.

    Args:
        timeout: seconds without progress after which a peer counts as lost (30 unless
            GEARSHIFT_TIMEOUT says otherwise); ``float("inf")`` stands for a year.
        overrides: `rank`, `world_size`, `servers`, `nnodes`, `rdzv`, `token`, `interface` (see
            :class:`gearshift.launch.environment.ProcessEnvironment`) instead of what the
            environment says, and `transports`, a list of "tcp" and "shm" to choose from.

    Raises:
        InvalidArgument: when the environment contradicts itself or lacks something.
        TimeoutError: when not all processes came.
        Unsupported: when the job cannot be joined again.
        Error: in a process that was forked from one with a session.
    """
    with _lock:
        if _process.session is not None:
            return
        _refuse_forked()
        _refuse_imported()
        transports = overrides.pop("transports", None)
        environment = _environment(timeout, overrides)
        if _process.left and environment.servers > 0:
            raise Unsupported("a job's dedicated servers end with it: it cannot be joined again")
        open_missing()
        _hook_exceptions()  # first: joining may fail because of others
        session = _open(environment, _transports(transports))
        if threading.current_thread() is threading.main_thread():
            try:
                session.watch_signals()
            except Error as error:
                session.fail(str(error))  # the others have met this process
                raise
        _process.session = session
        _process.environment = environment
        _process.rank = session.rank
        _process.world_size = session.world_size
        _process.failed = False
        _install_hooks()
        _core.set_optimizer_factory(_make_external_optimizer)
        if environment.launcher == "none" and (notice := lonely_notice()) is not None:
            _log.warning("%s", notice)
        if not session.is_server:
            return
    session.serve()
    shutdown()
    sys.exit(0)


def shutdown() -> None:
    """Leave the job in an orderly way; called by itself when the process ends.

    Models that were distributed stay usable, on this process alone. Does nothing without a session.
    """
    _shutdown(exiting=False)


def _shutdown(exiting: bool) -> None:
    with _lock:
        session = _process.session
        if session is None:
            return
        try:
            if not _process.failed:
                while _process.closing:
                    _process.closing.pop(0)(exiting)
                session.close()
        finally:
            _process.closing.clear()
            _process.session = None
            _process.left = True
            session.unwatch_signals()


def is_initialized() -> bool:
    """Whether :func:`init` was called, and :func:`shutdown` was not."""
    return _process.session is not None


def rank() -> int:
    """This worker's rank, 0 … world_size() - 1; in its forked children, too."""
    return _placed().rank


def world_size() -> int:
    """Number of workers."""
    return _placed().world_size


def local_rank() -> int:
    """This process's number among those on its host: which accelerator to use."""
    return _placed().environment.local_rank


def current() -> _core.Session:
    """The session.

    Raises:
        Error: when there is none.
    """
    if _process.session is None:
        _refuse_forked()
        raise Error("gearshift is not initialised in this process: call gs.init() first")
    return _process.session


def _placed() -> _Process:
    """Where this process's numbers are, which forked children keep."""
    if not _process.forked:
        current()
    return _process


def _refuse_forked() -> None:
    if _process.forked:
        raise Error(
            "this process was forked from a worker of the job (by a DataLoader with num_workers, "
            "maybe) and takes no part in it: gs.rank() and gs.world_size() work here, gs.init(), "
            "collectives and training do not"
        )


def _refuse_imported() -> None:
    """A process that multiprocessing starts by "spawn" or "forkserver" runs the script first.

    It has its parent's environment, and would wait for a place in the job that its parent has.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise Error(
            "gs.init() was called in a process that multiprocessing starts (for a DataLoader with "
            'multiprocessing_context="spawn" or "forkserver", maybe), where it runs your script '
            'again: put what the script does below `if __name__ == "__main__":`'
        )


def own_address() -> str:
    """This host's, on the way to the job's rendezvous: others of the job reach it there."""
    environment = _placed().environment
    if environment.nnodes == 1 or environment.rdzv is None:
        return "127.0.0.1"
    seconds = environment.timeout or DEFAULT_TIMEOUT
    place = _core.Store(environment.rdzv, environment.token or "", seconds)
    return environment.interface or place.own_address


def before_close(action: Callable[[bool], None]) -> None:
    """Have `action` called at an orderly shutdown, before the session closes.

    Its argument says whether the process is about to end. Earlier actions are called first, so that
    all ranks do the same in the same order.
    """
    _process.closing.append(action)


def not_before_close(action: Callable[[bool], None]) -> None:
    """Undo before_close()."""
    if action in _process.closing:
        _process.closing.remove(action)


def before_collectives(action: Callable[[], None]) -> None:
    """Have `action` called before each of the user's collectives, on every rank."""
    _process.settle = action


def settled() -> _core.Session:
    """The session, for a collective of the user's."""
    session = current()
    if _process.settle is not None:
        _process.settle()
    return session


def fail(message: str) -> None:
    """Leave the job at once, and tell the others why. Does nothing without a session."""
    if _process.session is not None and not _process.failed:
        _process.failed = True
        # Names of files may hold bytes that are no text; Python keeps them as lone surrogates.
        _process.session.fail(message.encode(errors="backslashreplace").decode())


def _environment(timeout: float | None, overrides: dict[str, Any]) -> ProcessEnvironment:
    known = {f.name for f in fields(ProcessEnvironment)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise InvalidArgument(
            f"init() does not know {', '.join(unknown)}; it knows timeout, transports, "
            + ", ".join(sorted(known - {"timeout"}))
        )
    try:
        given = {n: str(overrides[n]) for n in ("rdzv", "token") if overrides.get(n) is not None}
        variables = {f"GEARSHIFT_{name.upper()}": value for name, value in given.items()}
        environment = replace(detect({**os.environ, **variables}), **overrides)
    except LaunchError as error:
        raise InvalidArgument(str(error)) from error
    if timeout is not None:
        if not isinstance(timeout, numbers.Real) or not timeout > 0:
            raise InvalidArgument(f"timeout must be a positive number of seconds, got {timeout!r}")
        environment = replace(environment, timeout=timeout)
    if environment.rdzv_is_guessed:
        _check_guess(str(environment.rdzv))
    if environment.needs_torch_store and environment.rdzv is None:
        environment = replace(environment, rdzv=_torchrun().exchange_address(environment))
    return environment


def _check_guess(rdzv: str) -> None:
    host, _, _ = rdzv.removeprefix("tcp://").rpartition(":")
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise InvalidArgument(
            f"Slurm's name of this step's first node, {host!r}, is no host's name ({error}): set "
            "GEARSHIFT_RDZV=HOST:PORT in every process, an address of that node and a free port"
        ) from error


def _torchrun() -> Any:
    return importlib.import_module("gearshift.torch._torchrun")


def rdzv_now() -> str:
    """Called by the core while nobody answers at a rendezvous that may have moved."""
    return str(_torchrun().current_address())


def _transports(given: list[str] | str | None) -> list[str]:
    if given is not None and not isinstance(given, str):
        return list(given)
    text = os.environ.get("GEARSHIFT_TRANSPORTS", "") if given is None else given
    return [name.strip() for name in text.split(",") if name.strip()]


def _open(environment: ProcessEnvironment, transports: list[str]) -> _core.Session:
    for name in ("rdzv", "token", "interface"):
        text = getattr(environment, name) or ""
        if text != text.encode(errors="replace").decode():
            raise InvalidArgument(
                f"{name} {text!r} is no text in UTF-8"
                + ("; a rendezvous folder is made in TMPDIR" if text.startswith("file:") else "")
            )
    return _core.Session(
        rank=environment.rank,
        world_size=environment.world_size,
        servers=environment.servers,
        nnodes=environment.nnodes,
        rdzv=environment.rdzv or "",
        token=environment.token or "",
        timeout=environment.timeout,
        interface=environment.interface or "",
        transports=transports,
        rdzv_moves=environment.needs_torch_store and environment.rank != 0,
    )


def _make_external_optimizer(*arguments: Any) -> Any:
    """Called by the core, on a server: an update rule that it has no kernel for."""
    return importlib.import_module("gearshift.torch._shard_optimizer").make(*arguments)


def _install_hooks() -> None:
    if _process.hooks_installed:
        return
    _process.hooks_installed = True
    atexit.register(_at_exit)
    os.register_at_fork(after_in_child=_after_fork)
    note_exits(fail)


def _hook_exceptions() -> None:
    if _process.exceptions_hooked:
        return
    _process.exceptions_hooked = True
    previous = sys.excepthook

    def hook(
        kind: type[BaseException], value: BaseException, traceback: TracebackType | None
    ) -> None:
        previous(kind, value, traceback)
        fail(f"{kind.__name__}: {value}")
        if isinstance(value, (PeerLost, TimeoutError)):
            _print_held()
            raise SystemExit(EXIT_PEER_LOST)

    sys.excepthook = hook


def _print_held() -> None:
    """The hook of torch.distributed, where it calls ours, prints what it has kept afterwards."""
    if isinstance(sys.stderr, io.StringIO) and sys.__stderr__ is not None:
        print(sys.stderr.getvalue(), end="", file=sys.__stderr__, flush=True)


def _at_exit() -> None:
    try:
        _shutdown(exiting=True)
    except Error as error:
        # The exit code is decided already; the others learn from the broken connection.
        print(f"gearshift: leaving the job failed: {error}", file=sys.stderr)
        fail(str(error))
    except KeyboardInterrupt:
        print("gearshift: interrupted while leaving the job", file=sys.stderr)
        fail("interrupted (SIGINT)")
        die_of(signal.SIGINT)
    finally:
        _core.leave_everything()


def die_of(number: int) -> None:
    """End as a process that does not handle the signal, when it is too late to raise."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, full, or closed
            stream.flush()
    _core.leave_everything()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _after_fork() -> None:
    """A forked child keeps the numbers, but has no threads: the session is its parent's."""
    _process.forked = _process.forked or _process.session is not None
    with contextlib.suppress(RuntimeError):
        _process.closing.clear()
    _process.session = None
    _core.leave_everything()
