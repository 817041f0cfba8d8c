"""Two hosts: network namespaces in different networks, with a router between them.

Each host also has an interface that leads nowhere, with the same address on both: a process that
listened there, and not where the route to the rendezvous begins, would not be found.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

NOWHERE = "192.0.2.1"
_CABLE = ("cable0", "wire0")
"""What its ends are called on the two hosts."""


@dataclass
class Network:
    """Two hosts and a router. Names hold the process id, so that test runs do not meet."""

    prefix: str

    @property
    def hosts(self) -> tuple[str, str]:
        return f"{self.prefix}-a", f"{self.prefix}-b"

    @property
    def router(self) -> str:
        return f"{self.prefix}-r"

    @staticmethod
    def address(host: int) -> str:
        return f"10.77.{host}.2"

    def enter(self, host: int) -> list[str]:
        """What to put before a command to run it on a host."""
        return ["ip", "netns", "exec", self.hosts[host]]

    def make(self) -> None:
        for name in (*self.hosts, self.router):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        ip("netns", "exec", self.router, "sh", "-c", forward)
        for host, name in enumerate(self.hosts):
            add_pair(name, "eth0", f"port{host}")
            ip("-n", name, "link", "set", f"port{host}", "netns", self.router)
            ip("-n", self.router, "addr", "add", f"10.77.{host}.1/24", "dev", f"port{host}")
            ip("-n", self.router, "link", "set", f"port{host}", "up")
            ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "default", "via", f"10.77.{host}.1")
            add_pair(name, "nowhere", "nowhere-too")
            ip("-n", name, "addr", "add", f"{NOWHERE}/24", "dev", "nowhere")
            ip("-n", name, "link", "set", "nowhere", "up")

    def lay_cable(self) -> None:
        """A way from one host to the other without the router: `over_cable` leads there."""
        one, other = _CABLE
        peer = ("peer", "name", other, "netns", self.hosts[1])
        ip("-n", self.hosts[0], "link", "add", one, "type", "veth", *peer)
        for host, (name, end) in enumerate(zip(self.hosts, _CABLE, strict=True)):
            ip("-n", name, "link", "set", end, "addrgenmode", "none")
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "addr", "add", f"fe80::{host + 1}/64", "dev", end, "nodad")

    @staticmethod
    def over_cable(host: int) -> str:
        """The first host's address on the cable, as a host has to write it."""
        return f"[fe80::1%{_CABLE[host]}]"

    def pull_cable(self) -> None:
        ip("-n", self.router, "link", "set", "port1", "down")

    def remove(self) -> None:
        for name in (*self.hosts, self.router):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


def add_pair(namespace: str, one: str, other: str) -> None:
    ip("-n", namespace, "link", "add", one, "type", "veth", "peer", "name", other)
