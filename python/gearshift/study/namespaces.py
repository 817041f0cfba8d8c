"""A cluster as network namespaces of this machine, all of whose times are dilated."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..bench.hosts import Hosts, NamespaceError, hosts
from ..errors import Error
from ..sim.extension import describe_cluster
from ..sim.inputs import Source, seconds
from ..sim.validation.measure import CONGESTION_CONTROL, OWN_QUEUE_SECONDS
from ..sim.validation.model import MTU, PAYLOAD_SHARE, PORT_QUEUE_SECONDS

RANKS = 8
"""Processes up to which docs/validation.md has compared such hosts with the simulator."""
RANKS_PER_CORE = 4
"""More than :data:`RANKS` on greater machines. Each further one makes all times longer."""
LATENCY = 100e-6
"""The longest that may be asked for: a packet takes some 20 µs here, which cannot be set."""

_EFFICIENCY = 0.995
"""Of the payload's share of a link: what gets through, as fitted in docs/validation.md."""
_BURST_SECONDS = 0.0005
_LEAST_BURST = 12_000
"""Bytes that pass at once after a pause: a packet and a little, since a cluster file has none."""


@dataclass(frozen=True)
class Network:
    """What of a cluster the hosts are made of."""

    rates: tuple[float, ...]
    """Bytes of payload per second, by host."""
    worker_hosts: tuple[int, ...]
    """By rank: the number of its host."""
    server_hosts: tuple[int, ...]
    speeds: tuple[float, ...]
    """Of the workers' hosts, by rank."""

    @staticmethod
    def of(cluster: Source) -> Network:
        """Of a cluster file.

        Raises:
            InvalidArgument: when it is wrong.
        """
        found = describe_cluster(cluster.text, cluster.name)["hosts"]
        return Network(
            rates=tuple(float(host["bandwidth"]) for host in found),
            worker_hosts=_ranks(found, "workers"),
            server_hosts=_ranks(found, "servers"),
            speeds=tuple(float(host["speed"]) for host in found for _ in range(host["workers"])),
        )


def _ranks(found: list[dict[str, Any]], key: str) -> tuple[int, ...]:
    return tuple(number for number, host in enumerate(found) for _ in range(host[key]))


@contextlib.contextmanager
def made(network: Network, dilation: float) -> Iterator[Hosts]:
    """The hosts of a cluster whose links are slower by `dilation`, for a ``with`` statement.

    The rate of a link is that of the payload; packets, congestion control and queues are those with
    which docs/validation.md compares simulations.

    Raises:
        NamespaceError: when they cannot be made here.
    """
    with hosts(len(network.rates), prefix=f"gss{os.getpid()}") as found:
        found.set_mtu(MTU)
        found.set_congestion_control(CONGESTION_CONTROL)
        found.keep_windows()
        for host, rate in enumerate(network.rates):
            wire = rate / dilation / (PAYLOAD_SHARE * _EFFICIENCY)
            found.shape_host(
                host,
                wire * 8 / 1e6,
                OWN_QUEUE_SECONDS * dilation,
                PORT_QUEUE_SECONDS * dilation,
                burst=max(_LEAST_BURST, int(wire * _BURST_SECONDS)),
            )
        yield found


def unmeasurable(cluster: Source, cores: int) -> str | None:
    """Why hosts of this machine cannot stand for a cluster, for people; None: they can."""
    try:
        described = describe_cluster(cluster.text, cluster.name)
        document = cluster.document()
    except Error as error:
        return str(error)
    ranks = described["workers"] + described["servers"]
    limit = max(RANKS, RANKS_PER_CORE * cores)
    if ranks > limit:
        return (
            f"it has {ranks} processes, and hosts on this machine of {cores} cores stand for at "
            f"most {limit}"
        )
    for zone in document.get("zones", ()):
        if "bandwidth" in zone or seconds(zone.get("latency", 0)) > 0:
            return (
                f'the zone "{zone["name"]}" has an uplink with a bandwidth or latency of its own, '
                "and here is one switch for all"
            )
    for host in described["hosts"]:
        if host["latency"] > LATENCY:
            return (
                f'the latency of "{host["name"]}" is {host["latency"] * 1e3:g} ms, and links here '
                f"cannot be made slower to answer; up to {LATENCY * 1e3:g} ms is taken for theirs"
            )
    if document.get("failures"):
        return "hosts of it fail, and those here do not"
    return missing()


@cache
def missing() -> str | None:
    """What this machine lacks, for people."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "hosts are network namespaces, which need Linux and root"
    try:
        with hosts(2, prefix=f"gst{os.getpid()}") as found:
            found.set_congestion_control(CONGESTION_CONTROL)
            found.shape_host(0, 100.0)
    except NamespaceError as error:
        return str(error)
    return None
