"""Which hosts can open TCP connections to which: on ports like those that a job listens on."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .finding import Finding, ok, problem, warning
from .naming import seen_from

_PATIENCE = 4.0
_TICK = 0.2
_MOST_AT_ONCE = 32


class Listener:
    """Takes connections on a port that the system picks, and closes them at once.

    Raises:
        OSError: when this host does not have the address.
    """

    def __init__(self, address: str) -> None:
        family, kind, _, _, end = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(family, kind)
        try:
            self._socket.bind(end)
            self._socket.listen(128)
        except OSError:
            self._socket.close()
            raise
        self._socket.settimeout(_TICK)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="doctor-listener", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> tuple[str, int]:
        """Address and port."""
        name = self._socket.getsockname()
        return str(name[0]), int(name[1])

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):  # the timeout is one, too
                self._socket.accept()[0].close()


def probe(
    endpoints: Mapping[int, Sequence[Any]], own: str, patience: float = _PATIENCE
) -> dict[int, str]:
    """Connect to each rank's (address, port); by rank, "" or why that failed.

    `own`: the address of this host.
    """
    if not endpoints:
        return {}
    with ThreadPoolExecutor(min(_MOST_AT_ONCE, len(endpoints))) as pool:
        calls = [
            pool.submit(_connect, seen_from(own, str(address)), int(port), patience)
            for address, port in endpoints.values()
        ]
        return {rank: call.result() for rank, call in zip(endpoints, calls, strict=True)}


def _connect(address: str, port: int, patience: float) -> str:
    begin = time.monotonic()
    try:
        socket.create_connection((address, port), timeout=patience).close()
    except TimeoutError:
        return f"no answer within {time.monotonic() - begin:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    return ""


@dataclass(frozen=True)
class Reach:
    """What the connections from one host's first rank to that of another came to."""

    source: int
    target: int
    error: str


def judge(
    reaches: Sequence[Reach], names: Mapping[int, str], ends: Mapping[int, Any]
) -> list[Finding]:
    """What to say of all of them. `names`: of hosts, by first rank; `ends`: what was tried."""
    failed = [reach for reach in reaches if reach.error]
    if reaches and not failed:
        return [ok("connections", f"each of {len(names)} hosts reaches each other over TCP")]
    found = []
    for reach in failed:
        address, port = ends[reach.target]
        text = (
            f"{names[reach.source]} (rank {reach.source}) cannot connect to {names[reach.target]} "
            f"(rank {reach.target}) at {address}, port {port}: {reach.error}"
        )
        # The higher rank of a pair calls the lower one.
        make = problem if reach.source > reach.target else warning
        found.append(make("connections", text, _why(reach, failed), _todo(reach)))
    return found


def _why(reach: Reach, failed: Sequence[Reach]) -> str:
    back = any(r.source == reach.target and r.target == reach.source for r in failed)
    if reach.source < reach.target and not back:
        return "the other direction works, which is the one that this order of hosts needs"
    if "refused" in reach.error or "prohibited" in reach.error:
        return (
            "a firewall rejects connections to ports other than that of the rendezvous; or the "
            "address is another machine's, seen from there"
        )
    if "no answer" in reach.error:
        return (
            "packets are dropped: by a firewall, or because the address is one of a network that "
            "the other host does not have"
        )
    return "there is no way to that address"


def _todo(reach: Reach) -> str:
    if "refused" in reach.error or "no answer" in reach.error or "prohibited" in reach.error:
        return (
            "let TCP from all nodes through to net.ipv4.ip_local_port_range on each (processes "
            "listen on ports the system picks), or set GEARSHIFT_INTERFACE to an address in a "
            "network without the firewall"
        )
    return "set GEARSHIFT_INTERFACE on that host to its address in the network of all nodes"
