"""Folders in which a job keeps something for as long as it runs, or until the next one."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..report.table import human_bytes
from .finding import Finding, ok, problem, warning

_LITTLE = 16 << 20


@dataclass(frozen=True)
class Folders:
    """Where they are, and why they cannot be used (empty: they can)."""

    temporary: str
    temporary_error: str
    free: int
    cache: str
    """Empty: there is no place for one."""
    cache_error: str

    @staticmethod
    def collect() -> Folders:
        try:
            temporary = tempfile.gettempdir()
        except OSError as error:
            return Folders("", error.strerror or str(error), 0, "", "")
        status = os.statvfs(temporary)
        cache = cache_folder()
        return Folders(
            temporary=temporary,
            temporary_error=_try_write(Path(temporary)),
            free=status.f_bavail * status.f_frsize,
            cache=str(cache) if cache else "",
            cache_error="" if cache is None else _why_not_writable(cache),
        )


def cache_folder() -> Path | None:
    """Where the core keeps the speeds of links (src/runtime/link_cache.cc)."""
    cache, home = os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME", "")
    if cache.startswith("/"):
        return Path(cache) / "gearshift"
    return Path(home) / ".cache" / "gearshift" if home.startswith("/") else None


def check(folders: Folders) -> list[Finding]:
    return [_check_temporary(folders), _check_cache(folders)]


def _check_temporary(f: Folders) -> Finding:
    topic = "temporary folder"
    if f.temporary_error:
        return problem(
            topic,
            f"{f.temporary or 'none'}: {f.temporary_error}",
            "processes of one host meet in a folder there",
            "export TMPDIR=… with a folder that you can write to, on a disk of this host",
        )
    found = f"{f.temporary}, {human_bytes(f.free)} free"
    if f.free < _LITTLE:
        return warning(
            topic,
            found,
            "processes of one host meet in a folder there, and logs often go there",
            "remove what is not needed, or set TMPDIR",
        )
    return ok(topic, found)


def _check_cache(f: Folders) -> Finding:
    topic = "cache"
    if not f.cache or f.cache_error:
        return warning(
            topic,
            f"{f.cache or 'no folder'}: {f.cache_error or 'HOME is not set'}",
            "jobs of several hosts measure their links at each start, instead of once a day",
            "set HOME or XDG_CACHE_HOME to a folder that you can write to",
        )
    return ok(topic, f.cache)


def _try_write(folder: Path) -> str:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="gearshift-doctor-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _why_not_writable(folder: Path) -> str:
    """Nothing is made: a folder that is not there yet is judged by the one it would be in."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is no folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written to"
