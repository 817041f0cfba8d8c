"""Folders and files of results: one run at a time in a folder, and files that are whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gearshift.launch import LaunchError

LOCK = ".lock"


@contextlib.contextmanager
def claimed(folder: Path, option: str = "--out") -> Iterator[None]:
    """Make a folder, and keep other runs out of it for the time of a ``with`` statement.

    The claim ends with this process, whatever ends it; the file that holds it stays.

    Args:
        folder: the one.
        option: by which the user names it, for errors; empty for one that is there already.

    Raises:
        LaunchError: when it cannot be made, or another process has claimed it.
    """
    name = f"{option} {folder}".strip()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise LaunchError(f"{name}: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            advice = "give this one a folder of its own" if option else "wait for its end"
            raise LaunchError(
                f"{name}: another run is writing its results there; {advice}"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield


def write_json(path: Path, document: Any, indent: int = 2) -> None:
    """Write a document, whole or not at all: what was there before stays when the disk is full.

    Raises:
        OSError: when it cannot be written.
    """
    text = json.dumps(finite(document), indent=indent, ensure_ascii=False, allow_nan=False)
    # A lone half of a character, of a file's name that is no text, is an escape in JSON.
    write_whole(path, text + "\n", errors="backslashreplace")


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write a file, whole or not at all, and what is no regular file (``/dev/stdout``) as it is.

    Args:
        path: the file.
        text: to be written in UTF-8.
        errors: what becomes of characters that it has not, as in :meth:`str.encode`.

    Raises:
        OSError: when it cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", errors=errors)
        return
    path = path.resolve()  # a link stays one
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8", errors=errors)
        if path.exists():
            fresh.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Make the folder of a file, and see that it can be written: rather fail now than in the end.

    Raises:
        OSError: when it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.exists()
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not there or path.is_file():
        path.open("ab").close()  # permissions tell nothing to root, nor of strange file systems
    if not there:
        path.unlink()


def check_new(path: Path, force: bool) -> None:
    """See that nothing is lost where `path` is written: what a user may have edited by hand.

    Args:
        path: a file; empty, or no regular one, it may be there.
        force: it may be replaced.

    Raises:
        FileExistsError: when it would.
    """
    if not force and path.is_file() and path.stat().st_size > 0:
        told = "is there already: name another file, or replace it with --force"
        raise FileExistsError(errno.EEXIST, told, str(path))


def io_text(error: OSError) -> str:
    """The file and what is wrong with it, without the number of the error."""
    told = error.strerror or str(error)
    return f"{error.filename}: {told}" if error.filename else told


def finite(value: Any) -> Any:
    """The same with None for numbers that are infinite or none, for which JSON has no words."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
