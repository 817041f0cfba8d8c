"""Hosts on one machine: network namespaces around a switch, with links of a chosen rate.

Needs Linux, root and iproute2. Names hold the process id, so that runs do not meet; everything is
removed at the end. The rate of a link holds in both directions: the host's interface shapes what it
sends, the switch's port what the host receives.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from .interrupts import endings_raised, uninterrupted

INTERFACE = "eth0"
"""Of each host, towards the switch."""

_BURST_SECONDS = 0.001
_LEAST_BURST = 32_000
_MAKE_UP_SECONDS = 0.004
_MAKE_UP_RATE = 1.04
"""A link whose timer was late sends this much faster until it has made up for the time, or for so
much of it. Of 1 Gbit/s between busy cores, a bucket of one millisecond alone loses 1 to 3 %."""
QUEUE_SECONDS = 0.05


class NamespaceError(Exception):
    """Hosts cannot be made here; the message says why."""


class Hosts:
    """Some hosts, each in a namespace of its own, and the switch between them.

    With several sites, each has a switch, to which an equal part of the hosts is connected, the
    first ones to the first; and an uplink to a switch between the sites.
    """

    def __init__(self, count: int, prefix: str, sites: int = 1) -> None:
        self.names = [f"{prefix}-h{host}" for host in range(count)]
        self._switch = f"{prefix}-sw"
        self._sites = sites

    @staticmethod
    def address(host: int) -> str:
        """The IPv4 address of a host."""
        return f"10.78.0.{host + 1}"

    def enter(self, host: int) -> list[str]:
        """What to put before a command to run it on a host."""
        return ["ip", "netns", "exec", self.names[host]]

    def make(self) -> None:
        """Make namespaces, links and the switch."""
        for name in (*self.names, self._switch):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        self._add_switch("switch")
        for site, (own, other) in enumerate(self._uplinks()):
            self._add_switch(f"site{site}")
            ip("-n", self._switch, "link", "add", own, "type", "veth", "peer", "name", other)
            self._plug(own, f"site{site}")
            self._plug(other, "switch")
        for host, name in enumerate(self.names):
            port = f"port{host}"
            ip("-n", name, "link", "add", INTERFACE, "type", "veth", "peer", "name", port)
            ip("-n", name, "link", "set", port, "netns", self._switch)
            self._plug(port, f"site{self.site_of(host)}" if self._sites > 1 else "switch")
            ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "up")

    def site_of(self, host: int) -> int:
        """The site that a host is at."""
        return host * self._sites // len(self.names)

    def _uplinks(self) -> list[tuple[str, str]]:
        """Both ends of each site's: its own, and that of the switch between the sites."""
        return [
            (f"up{site}", f"down{site}") for site in range(self._sites if self._sites > 1 else 0)
        ]

    def _add_switch(self, name: str) -> None:
        ip("-n", self._switch, "link", "add", name, "type", "bridge")
        ip("-n", self._switch, "link", "set", name, "up")

    def _plug(self, port: str, switch: str) -> None:
        ip("-n", self._switch, "link", "set", port, "master", switch)
        ip("-n", self._switch, "link", "set", port, "up")

    def shape(self, mbit: float) -> None:
        """Give every link a rate, in each direction, which it keeps also when timers are late."""
        for host, name in enumerate(self.names):
            _shape(name, INTERFACE, mbit, QUEUE_SECONDS, _MAKE_UP_SECONDS)
            _shape(self._switch, f"port{host}", mbit, QUEUE_SECONDS, _MAKE_UP_SECONDS)

    def shape_uplinks(self, mbit: float, queue: float = QUEUE_SECONDS) -> None:
        """Give the uplink of every site a rate, in each direction, likewise."""
        for end in chain.from_iterable(self._uplinks()):
            _shape(self._switch, end, mbit, queue, _MAKE_UP_SECONDS)

    def shape_host(
        self,
        host: int,
        mbit: float,
        own_queue: float = QUEUE_SECONDS,
        port_queue: float = QUEUE_SECONDS,
        burst: int | None = None,
    ) -> None:
        """Give the link of one host a rate, in each direction.

        Queues are the seconds that a packet may wait, for the host's own interface and for the
        switch's port; what would wait longer is lost. `burst` is the bytes that pass at once after
        a pause, :func:`burst_bytes` unless it is given; not less than a packet.
        """
        _shape(self.names[host], INTERFACE, mbit, own_queue, burst=burst)
        _shape(self._switch, f"port{host}", mbit, port_queue, burst=burst)

    def set_mtu(self, size: int) -> None:
        """Make the packets of all links as large as this."""
        for host, name in enumerate(self.names):
            ip("-n", name, "link", "set", INTERFACE, "mtu", str(size))
            ip("-n", self._switch, "link", "set", f"port{host}", "mtu", str(size))
        for end in chain.from_iterable(self._uplinks()):
            ip("-n", self._switch, "link", "set", end, "mtu", str(size))

    def set_congestion_control(self, name: str) -> None:
        """Have TCP between the hosts control congestion like this: "cubic", "bbr", …"""
        for host in self.names:
            route = ("route", "change", f"{self.address(0)[:-1]}0/24", "dev", INTERFACE)
            ip("-n", host, *route, "congctl", name)

    def keep_windows(self) -> None:
        """Have TCP begin again after a pause as it ended, and not slowly."""
        setting = "net.ipv4.tcp_slow_start_after_idle=0"
        for host in range(len(self.names)):
            _run(*self.enter(host), "sysctl", "-q", "-w", setting)

    def sent_bytes(self) -> int:
        """What all hosts together have sent to others, headers included."""
        return sum(_sent_bytes(name, INTERFACE) for name in self.names)

    def uplink_bytes(self) -> int:
        """What all sites together have sent to others, headers included."""
        return sum(_sent_bytes(self._switch, own) for own, _ in self._uplinks())

    def remove(self) -> None:
        """Remove what :meth:`make` made; to be called even when it failed half-way.

        A second Ctrl-C waits for it: namespaces outlive the process that made them.
        """
        with uninterrupted():
            for name in (*self.names, self._switch):
                if Path("/run/netns", name).exists():
                    with contextlib.suppress(NamespaceError):
                        ip("netns", "delete", name)


@contextlib.contextmanager
def hosts(
    count: int,
    mbit: float | None = None,
    prefix: str | None = None,
    sites: int = 1,
    uplink_mbit: float | None = None,
) -> Iterator[Hosts]:
    """Hosts for the time of a `with` statement, also when Ctrl-C, SIGTERM or SIGHUP ends it.

    Args:
        count: of hosts.
        mbit: rate of each host's link, in each direction; None: unshaped.
        prefix: of the names of the namespaces.
        sites: at which the hosts are; see :class:`Hosts`.
        uplink_mbit: rate of each site's uplink, in each direction; None: unshaped.

    Raises:
        NamespaceError: when they cannot be made here.
    """
    for command in ("ip", "tc"):
        if shutil.which(command) is None:
            raise NamespaceError(f"{command} is not installed (Debian: iproute2)")
    made = Hosts(count, prefix or f"gsb{os.getpid()}", sites)
    with endings_raised():
        try:
            made.make()
            if mbit is not None:
                made.shape(mbit)
            if sites > 1 and uplink_mbit is not None:
                made.shape_uplinks(uplink_mbit)
            yield made
        finally:
            made.remove()


def ip(*arguments: str) -> None:
    """Run iproute2's ``ip``.

    Raises:
        NamespaceError: with what it says when it fails.
    """
    _run("ip", *arguments)


def burst_bytes(mbit: float) -> int:
    """What a link of this rate lets through at once after a pause."""
    return max(_LEAST_BURST, int(mbit * 1e6 / 8 * _BURST_SECONDS))


def _shape(
    namespace: str,
    device: str,
    mbit: float,
    queue: float,
    make_up: float = 0,
    burst: int | None = None,
) -> None:
    bytes_per_second = mbit * 1e6 / 8
    burst = burst_bytes(mbit) if burst is None else burst
    bucket = burst + int(bytes_per_second * make_up)
    limit = burst + int(bytes_per_second * queue)
    faster = f"{mbit * _MAKE_UP_RATE:g}mbit"
    _run(
        *("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf"),
        *("rate", f"{mbit:g}mbit", "burst", str(bucket), "limit", str(limit)),
        *(("peakrate", faster, "mtu", str(burst)) if make_up else ()),
    )


def _sent_bytes(namespace: str, device: str) -> int:
    path = f"/sys/class/net/{device}/statistics/tx_bytes"
    return int(_run("ip", "netns", "exec", namespace, "cat", path))


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or f"exit code {error.returncode}"
        raise NamespaceError(f"network namespaces: {' '.join(command)}: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NamespaceError(f"network namespaces: {error}") from error
    return done.stdout
