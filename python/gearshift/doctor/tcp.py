"""Settings of TCP that jobs of several hosts feel (docs/decisions/0013 and 0014)."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from ..report.table import human_bytes
from .finding import Finding, ok, problem, warning

_LIMITED = 192 << 10
"""What the core asks for a socket whose window it limits (decision 13)."""
_LEAST_WINDOW = 2 << 20
"""A link of 10 Gbit/s and 1.5 ms there and back."""
_LEAST_BACKLOG = 128
_LEAST_PORTS = 2000


@dataclass(frozen=True)
class Tcp:
    """None: the kernel does not say, as in some containers."""

    system: str
    """The congestion control of new connections."""
    allowed: tuple[str, ...]
    """Of which this process may choose."""
    wanted: str
    """GEARSHIFT_TCP_CONGESTION."""
    usable: bool
    """Whether a socket takes it."""
    cubic: bool
    """Whether a socket takes CUBIC."""
    receive: int | None
    """The most that a connection's receive buffer grows to."""
    send: int | None
    asked: int | None
    """The most that a process may ask for (net.core.wmem_max)."""
    backlog: int | None
    ports: tuple[int, int] | None

    @staticmethod
    def collect(wanted: str | None) -> Tcp:
        name = wanted or "auto"
        receive, send, ports = (
            _numbers(f"ipv4/{file}") for file in ("tcp_rmem", "tcp_wmem", "ip_local_port_range")
        )
        asked, backlog = _numbers("core/wmem_max"), _numbers("core/somaxconn")
        return Tcp(
            system=_system(),
            allowed=tuple(_text("ipv4/tcp_allowed_congestion_control").split()),
            wanted=name,
            usable=name in ("auto", "system") or _takes(name),
            cubic=_takes("cubic"),
            receive=receive[2] if len(receive) == 3 else None,
            send=send[2] if len(send) == 3 else None,
            asked=asked[0] if asked else None,
            backlog=backlog[0] if backlog else None,
            ports=(ports[0], ports[1]) if len(ports) == 2 else None,
        )


def check(tcp: Tcp) -> list[Finding]:
    return [_check_congestion(tcp), *_check_buffers(tcp), *_check_ports(tcp)]


def _check_congestion(t: Tcp) -> Finding:
    topic = "congestion control"
    allowed = ", ".join(t.allowed) or "unknown"
    if not t.usable:
        return problem(
            topic,
            f"GEARSHIFT_TCP_CONGESTION={t.wanted} is not one that this process may use",
            "every process of the job ends at its start",
            f"unset it, or use auto, system, or one of: {allowed}",
        )
    if t.system.startswith("bbr") and t.wanted == "auto":
        if t.cubic:
            return ok(topic, f"{t.system}; peers within 5 ms get cubic (decision 14)")
        return warning(
            topic,
            f"{t.system}, and this process may not use cubic (allowed: {allowed})",
            "BBR empties its path every ten seconds, and a synchronous job waits for whoever does",
            "modprobe tcp_cubic, and sysctl net.ipv4.tcp_allowed_congestion_control='"
            + " ".join((*t.allowed, "cubic"))
            + "'",
        )
    used = t.system if t.wanted in ("auto", "system") else t.wanted
    return ok(topic, f"{used or 'unknown'} (allowed: {allowed})")


def _check_buffers(t: Tcp) -> list[Finding]:
    found = ", ".join(
        f"{name} {human_bytes(size)}"
        for name, size in (("receive", t.receive), ("send", t.send), ("on request", t.asked))
        if size is not None
    )
    topic = "socket buffers"
    for setting, size in (("tcp_rmem", t.receive), ("tcp_wmem", t.send)):
        if size is not None and size < _LEAST_WINDOW:
            return [
                warning(
                    topic,
                    f"up to {found}",
                    "a connection has no more than that under way: too little for fast or long "
                    "links",
                    f"sysctl net.ipv4.{setting}='4096 131072 6291456'",
                )
            ]
    if t.asked is not None and t.asked < _LIMITED:
        return [
            warning(
                topic,
                f"up to {found}",
                "where servers get from many workers at once, what each has under way is limited, "
                "by a send buffer that a process may ask for; a smaller one is too small "
                "(decision 13)",
                "sysctl net.core.wmem_max=212992",
            )
        ]
    return [ok(topic, f"up to {found}")] if found else []


def _check_ports(t: Tcp) -> list[Finding]:
    found = []
    if t.backlog is not None and t.backlog < _LEAST_BACKLOG:
        found.append(
            warning(
                "callers in a queue",
                f"{t.backlog} (net.core.somaxconn)",
                "all ranks call the rendezvous at the same time; who is turned away comes again "
                "a second later",
                "sysctl net.core.somaxconn=4096",
            )
        )
    if t.ports is not None:
        first, last = t.ports
        said = f"processes listen on ports the system picks, {first} to {last}"
        if last - first < _LEAST_PORTS:
            found.append(
                warning(
                    "ports",
                    said,
                    "each process of a job listens on one, and each connection takes one",
                    "sysctl net.ipv4.ip_local_port_range='32768 60999'",
                )
            )
        else:
            found.append(ok("ports", f"{said}; a firewall between the hosts must let them pass"))
    return found


def _system() -> str:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            name = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    except OSError:
        return ""
    return name.partition(b"\0")[0].decode(errors="replace")


def _takes(name: str) -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    except OSError:
        return False
    return True


def _numbers(name: str) -> list[int]:
    return [int(word) for word in _text(name).split() if word.isdecimal()]


def _text(name: str) -> str:
    try:
        return Path("/proc/sys/net", name).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
