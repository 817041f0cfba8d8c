"""Which address a process of a job would listen on here, and why.

As the core does it: GEARSHIFT_INTERFACE (`--interface`) if it is set, else this end of the way to
the rendezvous. On one host that is loopback, and ranks talk through shared memory anyway.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..launch import LaunchError
from ..launch.plan import split_endpoint
from .finding import Finding, ok, problem, warning
from .interfaces import Interface, owner_of
from .naming import is_loopback, resolve, with_zone

_ANYWHERE = ("203.0.113.1", "2001:db8::1")
"""Addresses of documentation: no packet is sent, the kernel says which way it would go."""
_DISCARD = 9


@dataclass(frozen=True)
class Choice:
    """An address of this host."""

    address: str | None
    why: str
    interface: Interface | None = None
    error: str = ""
    """Why none can be chosen."""


def route_to(address: str) -> str:
    """The address of this host from which packets to `address` would come.

    Raises:
        OSError: when there is no route.
    """
    family, kind, _, _, end = socket.getaddrinfo(address, _DISCARD, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(end)
        return with_zone(probe.getsockname())


def choose(
    interfaces: Sequence[Interface],
    rdzv: str | None,
    wanted: str | None,
    route: Callable[[str], str] = route_to,
    look_up: Callable[[str], tuple[str, ...]] = resolve,
) -> Choice:
    """The address for a rendezvous "tcp://HOST:PORT"; without one, for other hosts in general."""
    if wanted is not None:
        return _wanted(interfaces, wanted, route)
    if rdzv is None or rdzv.startswith("file://"):
        for anywhere in _ANYWHERE:
            try:
                return _of(interfaces, route(anywhere), "the default route begins there")
            except OSError:
                continue
        return Choice(None, "there is no default route")
    try:
        host, _ = split_endpoint(rdzv)
        reason = ""
        for address in look_up(host):
            try:
                return _of(interfaces, route(address), f"the way to {host} begins there")
            except OSError as error:
                reason = f"no route to {address}: {error.strerror or error}"
    except LaunchError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{host!r} does not resolve: {error.strerror or error}"
    return Choice(None, "", error=reason)


def check(
    choice: Choice, interfaces: Sequence[Interface], several_hosts: bool, listed: bool = True
) -> list[Finding]:
    """What to say of the choice, after a line for all interfaces (`listed`)."""
    listing = [ok("interfaces", "; ".join(i.describe() for i in interfaces))] if listed else []
    if choice.error:
        return [*listing, _impossible(choice.error)]
    if choice.address is None:
        return [
            *listing,
            ok("address", f"none towards other hosts: {choice.why}; jobs of one host need none"),
        ]
    if several_hosts and is_loopback(choice.address):
        return [
            *listing,
            problem(
                "address",
                f"{choice.address} would be chosen: {choice.why}",
                "other hosts cannot reach it",
                "give --rdzv an address of node 0 in the network that the nodes share, or set "
                "GEARSHIFT_INTERFACE to this host's address there: " + _candidates(interfaces),
            ),
        ]
    return [*listing, *_check_address(choice, interfaces)]


def _impossible(error: str) -> Finding:
    return problem(
        "address",
        f"none can be chosen: {error}",
        "a process listens where the way to the rendezvous begins, or at GEARSHIFT_INTERFACE",
        "give --rdzv a name or address that this host knows and has a route to (`ip route`), and "
        "GEARSHIFT_INTERFACE an address of this host (`ip addr`)",
    )


def _check_address(choice: Choice, interfaces: Sequence[Interface]) -> list[Finding]:
    name = choice.interface.name if choice.interface else "unknown interface"
    found = f"{choice.address} ({name}) would be chosen for jobs of several hosts: {choice.why}"
    chosen = choice.interface
    if chosen is None or chosen.loopback:
        return [ok("address", found)]
    others = [i for i in interfaces if i.up and i.addresses and not i.loopback and i != chosen]
    if chosen.is_bridge:
        return [
            warning(
                "address",
                found,
                "by its name it leads to containers or virtual machines of this host only",
                "set GEARSHIFT_INTERFACE to the address in the network of the nodes: "
                + _candidates(i for i in others if not i.is_bridge),
            )
        ]
    faster = [i for i in others if (i.speed or 0) > (chosen.speed or 1 << 31)]
    if faster:
        best = max(faster, key=lambda i: i.speed or 0)
        return [
            warning(
                "address",
                f"{found}; {best.describe()} is faster than its {chosen.speed} Mbit/s",
                "gradients are what a job sends most of",
                f"if all nodes are in its network: GEARSHIFT_INTERFACE={best.addresses[0]} here, "
                "and --rdzv with node 0's address there",
            )
        ]
    return [ok("address", found)]


def _wanted(interfaces: Sequence[Interface], wanted: str, route: Callable[[str], str]) -> Choice:
    if any(i.name == wanted for i in interfaces):
        return Choice(
            None,
            "",
            error=f"GEARSHIFT_INTERFACE={wanted} is the name of an interface; its address is "
            "wanted",
        )
    for interface in interfaces:
        if wanted in interface.addresses or (interface.loopback and wanted.startswith("127.")):
            return Choice(wanted, "GEARSHIFT_INTERFACE says so", interface)
    # Interfaces are listed without the addresses that hold on one link only: fe80::1%eth0.
    with contextlib.suppress(OSError):
        if "%" in wanted and route(wanted) == wanted:
            return _of(interfaces, wanted, "GEARSHIFT_INTERFACE says so")
    return Choice(None, "", error=f"GEARSHIFT_INTERFACE={wanted} is no address of this host")


def _of(interfaces: Sequence[Interface], address: str, why: str) -> Choice:
    return Choice(address, why, owner_of(address, interfaces))


def _candidates(interfaces: Iterable[Interface]) -> str:
    able = [i for i in interfaces if i.up and not i.loopback and i.addresses]
    return ", ".join(f"{i.addresses[0]} ({i.name})" for i in able) or "there is none yet"
