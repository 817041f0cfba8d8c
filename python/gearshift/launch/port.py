"""The port at which rank 0 is to serve the rendezvous: whether somebody has it already."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import LaunchError
from .plan import split_endpoint

_PATIENCE = 3.0
"""Seconds that a rank of an earlier job gets to end."""
_LOOK = 0.5
"""Seconds that a store gets to answer."""
_TICK = 0.1
_LISTENS = "0A"
_SHOWN = 60


def check_port(rdzv: str, token: str, notify: Callable[[str], None]) -> None:
    """Refuse a port that somebody has who serves no store of the job, before anything is started.

    A rank of an earlier job may be about to end, and is waited for; other programs stay.

    Args:
        rdzv: HOST:PORT.
        token: of the job.
        notify: takes what is waited for.

    Raises:
        LaunchError: naming who has it, and what to do.
    """
    host, port = split_endpoint(rdzv)
    taken = _taken(host, port)
    answer = _answer(rdzv, token) if taken else None
    if answer is None:
        return
    holder = find_holder(taken, port)
    what = f"the port is taken by {holder}, and {answer}"
    if holder.may_end:
        notify(f"--rdzv: {what}; waiting up to {_PATIENCE:g} s for it to end")
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            time.sleep(_TICK)
            if not _taken(host, port):
                return
    raise LaunchError(
        f"--rdzv: rank 0 cannot serve the rendezvous at {host}:{port}: {what}; end that program, "
        "or choose another port"
    )


def _taken(host: str, port: int) -> list[str]:
    """The addresses at which the port is in use; one that is none of this host's may be a store's.

    Asked as the store asks, which need not wait until old connections have faded.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:  # rank 0 says so, or waits for the name
        return []
    in_use = []
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and len(found) > 1:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    in_use.append(str(address[0]))
    return in_use


def _answer(rdzv: str, token: str) -> str | None:
    """What is wrong with who has the port; None: it serves a store of the job."""
    from .. import _core
    from ..errors import Error

    try:
        _core.Store(rdzv, token, _LOOK)
    except Error as error:
        if error.code != "unauthenticated":
            return "does not answer as a rendezvous store does"
        strange = "no magic" in str(error)
        return "is no gearshift process" if strange else "serves jobs that have another token"
    return None


@dataclass(frozen=True)
class Holder:
    """Who has a port."""

    pid: int | None = None
    """One of the processes; None: none that may be looked at."""
    user: int | None = None

    @property
    def may_end(self) -> bool:
        """Whether it may be a rank of an earlier job; any other program stays."""
        if self.pid is None:
            return self.user in (None, os.getuid())
        process = Path(f"/proc/{self.pid}")
        return b"GEARSHIFT_" in _read(process / "environ") or b"/gearshift/" in _read(
            process / "maps"
        )

    def __str__(self) -> str:
        if self.pid is None:
            return "another program" + (f" of user {self.user}" if self.user is not None else "")
        command = _read(Path(f"/proc/{self.pid}/cmdline")).rstrip(b"\0").replace(b"\0", b" ")
        text = command.decode(errors="replace")
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        return f"`{shown}` (pid {self.pid})"


def find_holder(addresses: list[str], port: int) -> Holder:
    """Who listens at a port of one of the addresses, or else who has it for a connection."""
    found: dict[str, tuple[str, int]] = {}
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _read(Path(path)).decode().splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and _is_at(fields[1], addresses, port):
                found.setdefault(fields[3], (fields[9], int(fields[7])))
    if not found:
        return Holder()
    inode, user = found.get(_LISTENS) or next(iter(found.values()))
    return Holder(_owner(inode), user)


def _is_at(place: str, addresses: list[str], port: int) -> bool:
    """Whether a place as the kernel writes it, "0100007F:01BB", is one of the addresses."""
    host, _, number = place.partition(":")
    wanted = {_kernels(address) for address in addresses}
    everywhere = {text for text in (host, *wanted) if not text.strip("0")}
    return int(number, 16) == port and (host in wanted or bool(everywhere))


def _kernels(address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address.partition("%")[0])
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def _owner(inode: str) -> int | None:
    """The first process that has a socket, of those that may be looked at."""
    socket_name = f"socket:[{inode}]"
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        folder = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):  # of another user, or gone
            for name in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):
                    if os.readlink(f"{folder}/{name}") == socket_name:
                        return pid
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
