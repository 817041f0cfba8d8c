"""Where the ranks of a job on one host meet when another launcher than gearshift's started them.

They have in common the process of the launcher and a directory that only the user can read. A
directory there, named after the launcher's process, holds the files of the rendezvous and the
job's token.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import LaunchError
from .token import new_token, read_token_file

_NAME = re.compile(r"job-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{16}")
_TOKEN_FILE = "token"


@dataclass(frozen=True)
class HostJob:
    """What tells one job on this host from another."""

    launcher: str
    rank_variables: tuple[str, ...]
    """Environment variables that the launcher sets for each rank, and does not have all itself."""
    names: tuple[str, ...]
    """Further values that all ranks share: job id, restart count."""


@dataclass(frozen=True)
class HostStore:
    """The meeting place of a job."""

    directory: Path
    token: str


def open_host_store(job: HostJob, base: Path | None = None) -> HostStore:
    """Create or open the job's directory, and create or read its token.

    Safe against other ranks that do the same at the same time. Directories of jobs whose launcher
    has ended are removed on the way.

    Raises:
        LaunchError: when the directory belongs to somebody else, others can read it, or nothing can
            be written there.
    """
    with _refusal():
        base = _private_directory(_base_directory() if base is None else base)
        launcher = _launcher_process(job.rank_variables)
        for stale in stale_directories(base):
            shutil.rmtree(stale, ignore_errors=True)
        digest = hashlib.sha256("\0".join((job.launcher, *job.names)).encode()).hexdigest()[:16]
        name = f"job-{_pid_namespace()}-{launcher}-{_start_time(launcher)}-{digest}"
        directory = _private_directory(base / name)
        return HostStore(directory, _shared_token(directory))


def user_token(base: Path | None = None) -> str:
    """A token for all of this user's jobs on this host, made when there is none yet.

    For ranks that have no launcher in common. They meet at a port, so two jobs cannot mix.

    Raises:
        LaunchError: as :func:`open_host_store`.
    """
    with _refusal():
        base = _private_directory(_base_directory() if base is None else base)
        return _shared_token(base)


@contextlib.contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a full disk, one that may only be read
        raise LaunchError(
            f"the ranks of this host have no place to meet: {error}; set XDG_RUNTIME_DIR (where it "
            "is not set, TMPDIR does) to a directory of your own"
        ) from error


def _base_directory() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.stat(runtime).st_uid == os.getuid():
        return Path(runtime) / "gearshift"
    return Path(tempfile.gettempdir()) / f"gearshift-{os.getuid()}"


def _private_directory(path: Path) -> Path:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise LaunchError(
            f"{path} is not a directory of user {os.getuid()} (owner: {status.st_uid}); "
            "remove it, or set XDG_RUNTIME_DIR to a directory of your own"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise LaunchError(f"other users may enter {path}; run: chmod 700 {path}")
    return path


def _shared_token(directory: Path) -> str:
    """The token of whoever came first; written aside and linked, so it is never seen half."""
    path = directory / _TOKEN_FILE
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(prefix=".token-", dir=directory)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(new_token())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
    return read_token_file(path)


def _launcher_process(rank_variables: tuple[str, ...]) -> int:
    """The nearest ancestor that is not a rank itself.

    Usually the parent; with a wrapper (`mpirun bash job.sh`, `numactl …`) between, an ancestor. A
    launcher may have a rank of its own, in another job: torchrun in a pod that has RANK.
    """
    marks = {f"{name}={os.environ[name]}".encode() for name in rank_variables if name in os.environ}
    pid = os.getppid()
    while pid > 1 and marks and marks.issubset(_environment_of(pid)):
        pid = _parent_of(pid)
    return pid


def _environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # another user's process: a daemon such as slurmstepd, so the launcher
        return []


def _stat_after_name(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _parent_of(pid: int) -> int:
    fields = _stat_after_name(pid)
    return int(fields[1]) if len(fields) > 1 else 1


def _start_time(pid: int) -> int:
    """Clock ticks from boot to the start of a process, 0 if there is none of that id."""
    fields = _stat_after_name(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def stale_directories(base: Path | None = None) -> list[Path]:
    """Directories of launchers that are gone (in this PID namespace)."""
    base = _base_directory() if base is None else base
    own_namespace = _pid_namespace()
    try:
        entries = sorted(base.iterdir())
    except OSError:
        return []
    matches = [(entry, _NAME.fullmatch(entry.name)) for entry in entries]
    return [
        entry
        for entry, match in matches
        if match is not None
        and int(match["namespace"]) == own_namespace
        and _start_time(int(match["pid"])) != int(match["start"])
    ]
