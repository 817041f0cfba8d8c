"""What other jobs have left on this host, and jobs that run here now."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..launch.host_store import stale_directories
from .finding import Finding, ok, warning

_SHM = Path("/dev/shm")
_NAMESPACES = Path("/run/netns")
_TORCH_FILE = re.compile(r"torch_(\d+)_.*")
_NAMESPACE = re.compile(r"gs[bst](\d+)-(?:h\d+|sw)")
_MOST_NAMED = 5


@dataclass(frozen=True)
class Leftovers:
    """Of this user, as far as the system tells."""

    folders: tuple[str, ...]
    """Where processes of jobs met that have ended."""
    segments: tuple[str, ...]
    """Files of dead PyTorch processes in shared memory."""
    segment_bytes: int
    namespaces: tuple[str, ...]
    """Networks of benchmarks and studies that have ended."""
    ranks: tuple[int, ...]
    """Processes of other jobs that run here now."""

    @staticmethod
    def collect() -> Leftovers:
        environments = dict(_environments())
        own = _job_of(environments.get(os.getpid(), {}))
        ranks = [
            pid
            for pid, variables in environments.items()
            if b"GEARSHIFT_RANK" in variables and (own is None or _job_of(variables) != own)
        ]
        in_use = {variables.get(b"GEARSHIFT_RDZV", b"") for variables in environments.values()}
        segments = list(_dead(_SHM, _TORCH_FILE))
        return Leftovers(
            folders=(*map(str, stale_directories()), *_rendezvous_folders(in_use)),
            segments=tuple(str(path) for path in segments),
            segment_bytes=sum(_size(path) for path in segments),
            namespaces=tuple(path.name for path in _dead(_NAMESPACES, _NAMESPACE)),
            ranks=tuple(sorted(ranks)),
        )


def check(left: Leftovers) -> list[Finding]:
    found = []
    if left.ranks:
        found.append(
            warning(
                "other jobs",
                f"{len(left.ranks)} of their processes run here: {_named(left.ranks, 'pid ')}",
                "they share processors, memory and the network with yours; one that is meant to "
                "be gone holds ports, too",
                "end them, if they are left over: kill " + " ".join(map(str, left.ranks)),
            )
        )
    if left.segments:
        found.append(
            warning(
                "shared memory",
                f"{len(left.segments)} files of PyTorch processes that are not here any more, "
                f"{left.segment_bytes >> 20} MiB: {_named(left.segments)}",
                "they keep memory until the next boot",
                f"rm {_SHM}/torch_PID_* with the process ids above, unless another container "
                "shares /dev/shm",
            )
        )
    harmless = (
        ("network namespaces", left.namespaces, "benchmarks or studies", "ip netns delete"),
        ("rendezvous folders", left.folders, "jobs", "rm -r"),
    )
    for topic, names, origin, command in harmless:
        if names:
            found.append(
                ok(topic, f"of {origin} that were killed: {_named(names)} ({command} removes them)")
            )
    return found or [ok("leftovers", "none of dead jobs")]


def _named(things: tuple[object, ...], prefix: str = "") -> str:
    named = ", ".join(f"{prefix}{thing}" for thing in things[:_MOST_NAMED])
    more = len(things) - _MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _environments() -> Iterator[tuple[int, dict[bytes, bytes]]]:
    """Of each process whose environment may be read, by its id."""
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            text = Path("/proc", name, "environ").read_bytes()
        except OSError:
            continue
        pairs = (pair.partition(b"=") for pair in text.split(b"\0"))
        yield int(name), {key: value for key, _, value in pairs}


def _job_of(variables: dict[bytes, bytes]) -> tuple[bytes, bytes] | None:
    """What tells one job from another: where it meets, and its token."""
    if b"GEARSHIFT_RANK" not in variables:
        return None
    return variables.get(b"GEARSHIFT_RDZV", b""), variables.get(b"GEARSHIFT_TOKEN", b"")


def _rendezvous_folders(in_use: set[bytes]) -> Iterator[str]:
    """Those of `gearshift run`: their names say nothing, but they hold what a store does."""
    used = {os.fsdecode(address).removeprefix("file://") for address in in_use}
    for path in Path(tempfile.gettempdir()).glob("gearshift-????????"):
        try:
            mine = path.is_dir() and path.stat().st_uid == os.getuid()
            met = mine and any(name.startswith("arrived") for name in os.listdir(path))
        except OSError:
            continue
        if met and str(path) not in used:
            yield str(path)


def _dead(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Entries that are named after a process which is gone."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in sorted(names):
        match = pattern.fullmatch(name)
        if match is not None and not Path("/proc", match[1]).exists():
            yield folder / name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
