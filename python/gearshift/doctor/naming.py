"""The name of this host, and where others would go who look it up."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

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
    return tuple(dict.fromkeys(with_zone(entry[4]) for entry in found))


def with_zone(address: tuple[Any, ...]) -> str:
    """Of a socket; one that holds on one link only with the name of its interface: fe80::1%eth0."""
    zone = address[3] if len(address) == 4 else 0
    return f"{address[0]}%{socket.if_indextoname(zone)}" if zone else str(address[0])


def without_zone(address: str) -> str:
    """What it is on other hosts."""
    return address.partition("%")[0]


def seen_from(own: str, address: str) -> str:
    """Another host's address, reached by the interface of this host's `own`."""
    is_near = ipaddress.ip_address(address).is_link_local
    return f"{address}{own[len(without_zone(own)) :]}" if is_near and ":" in address else address


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(without_zone(address)).is_loopback


def check(naming: Naming, reachable: str | None) -> Finding:
    """`reachable`: an address that this host has, for the advice."""
    topic = "host name"
    host = f"[{reachable}]" if reachable and ":" in reachable else reachable
    instead = f"give an address instead: --rdzv {host}:29400" if host else "use addresses"
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
