"""Whole lines out of many processes: splitting, prefixes, colours and log files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

from . import LaunchError
from .printer import Outlet, Printer

Stream = Literal["out", "err"]

_MAX_LINE = 1 << 20
_PROGRESS_INTERVAL = 1.0
_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)


class LineSink(Protocol):
    """Where whole lines of output go."""

    def lines(self, label: str, stream: Stream, lines: list[bytes]) -> None:
        """Take lines without their newline, in order, from one stream of one process."""


class LineSplitter:
    r"""Cut a stream of bytes into lines; not thread-safe.

    A progress bar redraws one line again and again with ``\r``. In the merged output of many
    processes that would overwrite other lines, so each redrawn state counts as a line of its own,
    at most one per second; what stands there at the end of the line always gets out.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._redrawn = False
        self._pending: bytes | None = None
        self._last_progress = float("-inf")

    def feed(self, data: bytes, now: float) -> list[bytes]:
        """The lines that `data`, received at time `now` (seconds), completes."""
        *complete, rest = (self._rest + data).split(b"\n")
        lines = [line for raw in complete if (line := self._settle(raw)) is not None]
        rest = self._thin_progress(rest, now, lines)
        if len(rest) > _MAX_LINE:
            lines.append(rest)
            rest = b""
        self._rest = rest
        return lines

    def finish(self) -> list[bytes]:
        """What is left when the stream ends without a newline."""
        if not self._rest and self._pending is None:
            return []
        line = self._settle(self._rest)
        self._rest = b""
        return [] if line is None else [line]

    def _settle(self, raw: bytes) -> bytes | None:
        text = raw.removesuffix(b"\r")
        if b"\r" in text:
            text = _last_text(text.split(b"\r"))
        redrawn, pending = self._redrawn, self._pending
        self._redrawn, self._pending = False, None
        if redrawn and not text.strip():
            return pending
        return text

    def _thin_progress(self, rest: bytes, now: float, lines: list[bytes]) -> bytes:
        # A trailing \r may be half of \r\n: it is left for the next call.
        body, held = (rest[:-1], b"\r") if rest.endswith(b"\r") else (rest, b"")
        if b"\r" not in body:
            return rest
        *drawn, current = body.split(b"\r")
        self._redrawn = True
        self._pending = _last_text(drawn) or self._pending
        if self._pending is not None and now - self._last_progress >= _PROGRESS_INTERVAL:
            lines.append(self._pending)
            self._pending = None
            self._last_progress = now
        return current + held


def _last_text(segments: list[bytes]) -> bytes:
    return next((segment for segment in reversed(segments) if segment.strip()), b"")


class ConsoleSink:
    """Writes lines to this process's stdout and stderr, each with the rank in front.

    What cannot be written is left out: neither a full disk nor a terminal that has gone must end a
    job. `on_failure` is told once of each stream. With `patience`, nor must who does not read (see
    :class:`gearshift.launch.printer.Printer`); then :meth:`finish` is to be called in the end.
    """

    def __init__(
        self,
        *,
        prefix: bool,
        on_failure: Callable[[str, OSError], None],
        printing: bool = False,
        patience: float | None = None,
    ) -> None:
        self._prefix = prefix
        self._outlets: dict[Stream, Outlet] = {
            "out": Outlet(1, lambda error: on_failure("stdout", error)),
            "err": Outlet(2, lambda error: on_failure("stderr", error)),
        }
        self._printers: dict[Stream, Printer] = {}
        if printing:
            out, err = (Printer(outlet, patience=patience) for outlet in self._outlets.values())
            self._printers = {"out": out, "err": out if _is_one_file(1, 2) else err}
        coloured = "NO_COLOR" not in os.environ
        self._colour: dict[Stream, bool] = {
            "out": coloured and sys.stdout.isatty(),
            "err": coloured and sys.stderr.isatty(),
        }

    def lines(self, label: str, stream: Stream, lines: list[bytes]) -> None:
        """Write the lines in one go, so that none is torn."""
        head = self._head(label, stream)
        self._put(stream, [head + line + b"\n" for line in lines])

    def notify(self, text: bytes) -> None:
        """A line of the launcher's own, on stderr."""
        self._put("err", [text])

    def finish(self, patience: float | None = None) -> None:
        """Wait until all has been written, or nothing has for `patience` seconds."""
        for printer in self._printers.values():
            printer.finish(patience)

    def _put(self, stream: Stream, lines: list[bytes]) -> None:
        if stream in self._printers:
            self._printers[stream].put(lines)
        else:
            self._outlets[stream].write(b"".join(lines))

    def _head(self, label: str, stream: Stream) -> bytes:
        if not self._prefix:
            return b""
        if not self._colour[stream]:
            return f"[{label}] ".encode()
        colour = _COLOURS[int(label) % len(_COLOURS)] if label.isdecimal() else 90
        return f"\x1b[{colour}m[{label}]\x1b[0m ".encode()


def _is_one_file(descriptor: int, other: int) -> bool:
    """Whether what is printed on the two has an order, as on a terminal."""
    try:
        return os.path.sameopenfile(descriptor, other)
    except OSError:  # closed
        return False


class LogFiles:
    """One file per rank with both of its streams, without prefixes.

    Raises:
        LaunchError: when the folder or the files cannot be made. What cannot be written later is
            left out: a full disk must not end a job.
    """

    def __init__(self, directory: Path, notify: Callable[[str], None]) -> None:
        self._directory = directory
        self._notify = notify
        self._writing = True
        with self._refusal():
            directory.mkdir(parents=True, exist_ok=True)

    def append(self, rank: int, lines: list[bytes]) -> None:
        """Append lines to rank-N.log."""
        if not self._writing:
            return
        try:
            with open(self.path(rank), "ab") as file:
                file.write(b"".join(line + b"\n" for line in lines))
        except OSError as error:
            self._writing = False
            self._notify(
                f"cannot write {self.path(rank)}: {error.strerror}; "
                "the job goes on without log files"
            )

    def start(self, rank: int) -> None:
        """Begin an empty log, in place of one of an earlier run."""
        with self._refusal():
            self.path(rank).write_bytes(b"")

    @contextlib.contextmanager
    def _refusal(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LaunchError(f"--log-dir {self._directory}: {error.strerror}") from error

    def path(self, rank: int) -> Path:
        """The log of a rank."""
        return self._directory / f"rank-{rank}.log"
