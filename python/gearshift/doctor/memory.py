"""Memory, and what of it processes of one host can share."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from ..report.table import human_bytes
from .cgroup import memory_left, read_limit
from .finding import Finding, ok, warning

_LITTLE = 1 << 30
_LITTLE_SHM = 1 << 29
_WINDOW_BYTES = 1 << 20


@dataclass(frozen=True)
class Memory:
    """In bytes."""

    total: int
    available: int
    limit: int | None
    """Of the control group."""
    shm: int | None
    """Size of /dev/shm; None: there is none."""
    shm_free: int
    window_error: str
    """Why no window that processes share can be made; empty: one was made."""
    left: int | None = None
    """What the control group still has below its limit."""

    @staticmethod
    def collect() -> Memory:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        shm = _size_of("/dev/shm")
        limit = read_limit("memory.max")
        return Memory(
            total=_meminfo(text, "MemTotal"),
            available=_meminfo(text, "MemAvailable"),
            limit=int(limit) if limit is not None else None,
            shm=None if shm is None else shm[0],
            shm_free=0 if shm is None else shm[1],
            window_error=try_window(_WINDOW_BYTES),
            left=memory_left(),
        )


def check(m: Memory) -> list[Finding]:
    return [_check_memory(m), _check_window(m), _check_shm(m)]


def _check_memory(m: Memory) -> Finding:
    found = f"{human_bytes(m.available)} of {human_bytes(m.total)} are available"
    usable = m.available
    if m.limit is not None and m.limit < m.total:
        usable = min(usable, m.limit)
        found += f"; the control group allows {human_bytes(m.limit)}"
        if m.left is not None:
            usable = min(usable, m.left)
            found += f", of which {human_bytes(m.left)} are left"
    if usable < _LITTLE:
        return warning(
            "memory",
            found,
            "each rank has its model, gradients and optimizer state here, and windows of shared "
            "memory count, too; a rank that is killed for want of memory ends the job",
            "end what is not needed, start fewer ranks here, or raise the container's limit",
        )
    return ok("memory", found)


def _check_window(m: Memory) -> Finding:
    topic = "shared windows"
    if not m.window_error:
        return ok(
            topic, f"one of {human_bytes(_WINDOW_BYTES)} was made, passed on, and read (memfd)"
        )
    return warning(
        topic,
        f"none can be made: {m.window_error}",
        "ranks of one host would talk over TCP, several times slower",
        "raise `ulimit -f`, and let the sandbox use memfd_create and Unix sockets",
    )


def _check_shm(m: Memory) -> Finding:
    why = (
        'a DataLoader\'s workers pass batches through it, and die of SIGBUS ("Bus error") when '
        "it is full; gearshift itself does not use it"
    )
    todo = (
        "docker run --shm-size=2g (or --ipc=host); in Kubernetes an emptyDir of medium Memory at "
        "/dev/shm; else mount -o remount,size=2G /dev/shm"
    )
    if m.shm is None:
        return warning("/dev/shm", "is not there", why, todo)
    found = f"{human_bytes(m.shm_free)} of {human_bytes(m.shm)} are free"
    if m.shm_free < _LITTLE_SHM:
        if m.shm >= 2 * _LITTLE_SHM:
            todo = "remove what is left of dead processes there (ls -l /dev/shm), or enlarge it"
        return warning("/dev/shm", found, why, todo)
    return ok("/dev/shm", found)


def try_window(size: int) -> str:
    """Share memory as a job's processes of one host do; the reason if that fails, else empty."""
    mark = b"gearshift"
    ours, theirs = -1, -1
    try:
        ours = os.memfd_create("gearshift-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(ours, size)
        fcntl.fcntl(ours, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with one, other, mmap.mmap(ours, size) as window:
            socket.send_fds(one, [b"x"], [ours])
            theirs = socket.recv_fds(other, 1, 1)[1][0]
            window[size - len(mark) :] = mark
            with mmap.mmap(theirs, size) as seen:
                return "" if seen[size - len(mark) :] == mark else "a write was not seen"
    except OSError as error:
        return f"{error.strerror or error}"
    finally:
        for descriptor in (ours, theirs):
            if descriptor >= 0:
                os.close(descriptor)


def _meminfo(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _size_of(folder: str) -> tuple[int, int] | None:
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
