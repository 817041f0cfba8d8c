"""The name of this host, and where others would go who look it up."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from .finding import Finding, ok, warning


@dataclass(frozen=True)
class Naming:
    """What the resolver of this host says of its own name."""

    name: str
    addresses: tuple[str, ...]
    error: str = ""

    @staticmethod
    def collect() -> Naming:
        name = socket.gethostname()
        try:
            addresses = resolve(name)
        except OSError as error:
            return Naming(name, (), str(error.strerror or error))
        return Naming(name, addresses)


def resolve(name: str) -> tuple[str, ...]:
    """Addresses of a host, without repetition, in the resolver's order.

    Raises:
        OSError: when the name is not known.
    """
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def check(naming: Naming, reachable: str | None) -> Finding:
    """`reachable`: an address that this host has, for the advice."""
    topic = "host name"
    instead = f"give an address instead: --rdzv {reachable}:29400" if reachable else "use addresses"
    if not naming.addresses:
        return warning(
            topic,
            f"{naming.name} does not resolve: {naming.error}",
            "it cannot be the host of --rdzv, nor MASTER_ADDR",
            f"add it to /etc/hosts or DNS, or {instead}",
        )
    found = f"{naming.name} is {', '.join(naming.addresses)}"
    loopback = [address for address in naming.addresses if is_loopback(address)]
    if loopback:
        return warning(
            topic,
            found,
            f"{loopback[0]} is this host for itself alone (Debian's installer writes 127.0.1.1 "
            "into /etc/hosts): a rendezvous of several hosts at this name is refused",
            f"{instead}; or have /etc/hosts map the name to that address",
        )
    return ok(topic, found)
