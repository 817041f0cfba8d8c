"""What the system lets one process, or one user, have; against what a job needs."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

from ..report.table import human_bytes
from .cgroup import read_limit
from .finding import Finding, ok, warning

_OWN_DESCRIPTORS = 128
_DESCRIPTORS_PER_RANK = 4
"""Two streams to each other rank, a connection of the store that rank 0 serves, and one more."""
_THREADS_PER_RANK = 32
"""Of the core, of Python and of the libraries, without those of OMP_NUM_THREADS."""


@dataclass(frozen=True)
class Limits:
    """None: unlimited."""

    files: int | None
    """The hard limit: a process of a job raises the soft one itself."""
    processes: int | None
    """Of this user, threads among them; the group's pids.max, if that is less."""
    threads_now: int
    """Of this user."""
    locked: int | None
    file_size: int | None
    address_space: int | None
    world: int
    ranks: int
    """On this host."""

    @staticmethod
    def collect(world: int, ranks: int) -> Limits:
        pids = read_limit("pids.max")
        found = [_limit(resource.RLIMIT_NPROC, hard=False), int(pids) if pids else None]
        counted = [number for number in found if number is not None]
        return Limits(
            files=_limit(resource.RLIMIT_NOFILE, hard=True),
            processes=min(counted) if counted else None,
            threads_now=_own_threads(),
            locked=_limit(resource.RLIMIT_MEMLOCK, hard=False),
            file_size=_limit(resource.RLIMIT_FSIZE, hard=False),
            address_space=_limit(resource.RLIMIT_AS, hard=False),
            world=world,
            ranks=ranks,
        )


def check(limits: Limits) -> list[Finding]:
    return [_check_files(limits), _check_processes(limits), *_check_sizes(limits)]


def _check_files(limits: Limits) -> Finding:
    topic = "open files"
    if limits.files is None:
        return ok(topic, "unlimited")
    most = max(0, (limits.files - _OWN_DESCRIPTORS) // _DESCRIPTORS_PER_RANK)
    found = f"up to {limits.files} in a process: enough for about {most} ranks"
    if most < limits.world:
        return warning(
            topic,
            f"{found}, and this job has {limits.world}" if limits.world > 1 else found,
            "a process has connections to every other rank",
            f"raise the hard limit (ulimit -Hn, /etc/security/limits.conf, docker --ulimit) to "
            f"{_OWN_DESCRIPTORS + _DESCRIPTORS_PER_RANK * max(limits.world, 16)}",
        )
    return ok(topic, found)


def _check_processes(limits: Limits) -> Finding:
    topic = "threads and processes"
    if limits.processes is None:
        return ok(topic, "unlimited")
    need = limits.ranks * _THREADS_PER_RANK
    found = f"up to {limits.processes} for this user, who has {limits.threads_now}"
    if limits.threads_now + need > limits.processes and os.geteuid() != 0:
        return warning(
            topic,
            found,
            f"{limits.ranks} ranks take some {need} threads here, and more with a DataLoader's "
            "workers; a rank that gets none ends the job",
            "raise it (ulimit -u, systemd's TasksMax, docker --pids-limit)",
        )
    return ok(topic, found)


def _check_sizes(limits: Limits) -> list[Finding]:
    locked = "unlimited" if limits.locked is None else human_bytes(limits.locked)
    found = [ok("locked memory", f"{locked} (gearshift locks none)")]
    for topic, most, option in (
        ("size of files", limits.file_size, "-f"),
        ("address space", limits.address_space, "-v"),
    ):
        if most is not None:
            found.append(
                warning(
                    topic,
                    f"limited to {human_bytes(most)} (ulimit {option})",
                    "it holds for windows of shared memory, too: a model whose gradients are "
                    "larger cannot be distributed here",
                    f"ulimit {option} unlimited",
                )
            )
    return found


def _limit(which: int, *, hard: bool) -> int | None:
    value = resource.getrlimit(which)[1 if hard else 0]
    return None if value == resource.RLIM_INFINITY else value


def _own_threads() -> int:
    count, user = 0, os.getuid()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(Path("/proc", name, "task")))
            except OSError:  # it has just ended
                continue
    return count
