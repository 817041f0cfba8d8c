"""Network interfaces of this host, as the kernel has them."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40
_CLASS = Path("/sys/class/net")
_BRIDGES = ("docker", "br-", "virbr", "lxcbr", "lxdbr", "cni", "cbr", "flannel.", "podman", "veth")


@dataclass(frozen=True)
class Interface:
    """One of them."""

    name: str
    addresses: tuple[str, ...]
    """IPv4 first; without those of IPv6 that hold on one link only."""
    up: bool
    """Switched on, and its cable has a signal."""
    loopback: bool
    mtu: int | None
    speed: int | None
    """Mbit/s; None where the driver does not say, as virtual ones."""

    @property
    def is_bridge(self) -> bool:
        """Named as those that lead to containers and virtual machines of this host."""
        return self.name.startswith(_BRIDGES)

    def describe(self) -> str:
        words = [", ".join(self.addresses) or "no address"]
        if not self.up:
            words.append("down")
        if self.mtu is not None:
            words.append(f"MTU {self.mtu}")
        if self.speed is not None:
            words.append(f"{self.speed} Mbit/s")
        return f"{self.name} ({', '.join(words)})"


class _Entry(ctypes.Structure):
    """struct ifaddrs."""


_Entry._fields_ = [
    ("next", ctypes.POINTER(_Entry)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("other", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


def list_interfaces() -> list[Interface]:
    """All of this network namespace, in the kernel's order.

    Raises:
        OSError: when the kernel does not tell.
    """
    found: dict[str, Interface] = {}
    for name, flags, address in _entries():
        known = found.get(name) or Interface(
            name=name,
            addresses=(),
            up=flags & (_UP | _RUNNING) == _UP | _RUNNING,
            loopback=bool(flags & _LOOPBACK),
            mtu=_number(name, "mtu"),
            speed=_number(name, "speed") if _is_real(name) else None,
        )
        if address is not None:
            known = replace(known, addresses=(*known.addresses, address))
        found[name] = known
    return [replace(i, addresses=tuple(sorted(i.addresses, key=_v6))) for i in found.values()]


def owner_of(address: str, interfaces: Iterable[Interface]) -> Interface | None:
    """The one that has an address; those that hold on one link only say so: fe80::1%eth0."""
    zone = address.partition("%")[2]
    return next((i for i in interfaces if address in i.addresses or i.name == zone), None)


def _v6(address: str) -> bool:
    return ":" in address


def _entries() -> Iterator[tuple[str, int, str | None]]:
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_Entry)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        at = first
        while at:
            entry = at.contents
            yield os.fsdecode(entry.name), int(entry.flags), _address(entry.address)
            at = entry.next
    finally:
        libc.freeifaddrs(first)


def _address(at: int | None) -> str | None:
    """Of a sockaddr, if it is one that others can be given."""
    if not at:
        return None
    (family,) = struct.unpack("H", ctypes.string_at(at, 2))
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, ctypes.string_at(at + 4, 4))
    if family == socket.AF_INET6:
        address = socket.inet_ntop(socket.AF_INET6, ctypes.string_at(at + 8, 16))
        return None if ipaddress.ip_address(address).is_link_local else address
    return None


def _is_real(name: str) -> bool:
    """Others have a speed that says nothing: 10000 for those between containers."""
    return (_CLASS / name / "device").exists() or (_CLASS / name / "bonding").exists()


def _number(name: str, what: str) -> int | None:
    try:
        value = int((_CLASS / name / what).read_text())
    except (OSError, ValueError):
        return None
    return value if 0 < value < 1 << 31 else None
