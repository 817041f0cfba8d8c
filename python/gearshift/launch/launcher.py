"""``gearshift run`` as a function: validate, start, wait, report."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping

from .command_line import command_line, headline
from .environment import nested_notice
from .job import ENDING, Job
from .output import ConsoleSink, LineSink
from .plan import (
    LaunchOptions,
    build_plan,
    job_token,
    misplaced_notice,
    servers_notice,
    thread_notice,
    validate,
)
from .port import check_port
from .printer import write_all
from .verdict import Outcome

_PATIENCE = 0.25
"""Of the timeout after which processes give each other up: so long may one wait to print."""
_LAST_PATIENCE = 2.0


def launch(
    options: LaunchOptions,
    *,
    environ: Mapping[str, str] | None = None,
    sink: LineSink | None = None,
) -> Outcome:
    """Run the processes of this node to their end; call from the main thread.

    Args:
        options: what to start.
        environ: what the processes inherit; by default this process's environment.
        sink: where their lines go; by default stdout and stderr, prefixed with the rank.

    Raises:
        LaunchError: when the options cannot work or a process cannot be started.
    """
    environ = os.environ if environ is None else environ
    validate(options, environ)
    if options.rdzv is not None and options.node_rank == 0:
        check_port(options.rdzv, job_token(options, environ), notify)
    notices = [
        misplaced_notice(options),
        nested_notice(options.nnodes, environ),
        servers_notice(options, environ),
        thread_notice(options, environ),
    ]
    if options.job_file is not None:
        notices.insert(0, headline(options, environ))
    for notice in notices:
        if notice is not None:
            notify(notice)
    if sink is not None:
        return _run(options, environ, sink, notify)
    patience = options.timeout_seconds(environ) * _PATIENCE if options.world_size > 1 else None
    console = ConsoleSink(
        prefix=options.prefix,
        on_failure=lambda stream, error: console.notify(_line(_failure(stream, error))),
        printing=True,
        patience=patience,
    )
    interrupted = True
    try:
        outcome = _run(options, environ, console, lambda text: console.notify(_line(text)))
        interrupted = outcome.interrupted
    finally:
        # Ctrl-C ends the wait, since all processes have ended; who asked for an end gets one.
        with contextlib.suppress(KeyboardInterrupt):
            console.finish(_LAST_PATIENCE if interrupted else None)
    return outcome


def _run(
    options: LaunchOptions,
    environ: Mapping[str, str],
    sink: LineSink,
    notify: Callable[[str], None],
) -> Outcome:
    # Until somebody removes the directory whatever happens, a signal has to wait.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    directory = None
    try:
        if options.rdzv is None:
            directory = tempfile.mkdtemp(prefix="gearshift-")
        job = Job(
            build_plan(options, environ, directory),
            sink=sink,
            notify=notify,
            grace=options.grace_seconds(environ),
            farewell=options.farewell_seconds(),
            log_dir=options.log_dir,
            directory=directory,
            elsewhere=options.nnodes > 1,
            on_ready=lambda: _set_mask(held),
        )
        outcome = job.run()
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
        _set_mask(held)
    if outcome.message is not None:
        notify(outcome.message)
    elif job.nobody_came and options.world_size > 1:
        notify(_nobody_met(options))
    return outcome


def describe(options: LaunchOptions, environ: Mapping[str, str] | None = None) -> str:
    """What would run, without running it: its headline as a comment, and the whole command.

    Raises:
        LaunchError: when the options cannot work.
    """
    environ = os.environ if environ is None else environ
    validate(options, environ)
    return f"# {headline(options, environ)}\n{command_line(options)}"


def notify(message: str) -> None:
    """Tell the user something on stderr.

    Past Python's own stream, which would keep what cannot be written, fail again when this process
    ends, and change its exit code.
    """
    with contextlib.suppress(OSError):  # a closed terminal must not take the job with it
        write_all(2, _line(message))


def _line(message: str) -> bytes:
    return f"gearshift run: {message}\n".encode(errors="backslashreplace")


def _set_mask(mask: set[int | signal.Signals]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _nobody_met(options: LaunchOptions) -> str:
    return (
        f"no process of {options.target[0]} joined the job, so each of the {options.world_size} "
        "did all of the work alone; a script joins with gs.init(), and shares by gst.distribute()"
    )


def _failure(stream: str, error: OSError) -> str:
    gone = isinstance(error, ConnectionError)
    cause = f"cannot write to {stream}: {error.strerror}"
    what = f"{stream} was closed by its reader" if gone else cause
    return f"{what}; the job goes on without that output"
