"""Cases across hosts, which are network namespaces: all-reduce over TCP, at several rates."""

from __future__ import annotations

import math

from .case import OURS, Network, Point, Setting, Side, Target, size_name
from .one_host import GLOO, KIB, MIB

GEARSHIFT = Side(OURS, "all_reduce")
PING = Side("ping", "ping")
PLAIN_TCP = Side("plain TCP", "plain_tcp")

_SEGMENT_PAYLOAD = 1448 / 1514
"""Of an Ethernet frame of 1514 bytes: what TCP with timestamps carries."""


def settings() -> list[Setting]:
    """Four hosts at several rates, two hosts of two ranks, and two sites of three hosts."""
    return [
        *(_four_hosts(mbit) for mbit in (100.0, 1000.0, 10000.0, None)),
        _two_by_two("block"),
        _two_by_two("cyclic"),
        _two_sites(),
    ]


def payload_rate(mbit: float) -> float:
    """Bytes per second that TCP gets through a link of so many Mbit/s: 119.6 MB/s of 1 Gbit/s."""
    return mbit * 1e6 / 8 * _SEGMENT_PAYLOAD


def ring_share(ranks: int) -> float:
    """What each rank of an all-reduce sends at least, in parts of the array."""
    return 2 * (ranks - 1) / ranks


def bound_seconds(count: int, network: Network, half_round_trip: float) -> float | None:
    """What the wire allows for an all-reduce of `count` bytes with one rank per host.

    Large arrays: the time in which each link carries what it must: of B bytes, 2(H-1)/H for each
    of H hosts, and 2(Z-1)/Z for each of Z sites. Small ones: in addition, one
    message's latency for each of the log2(N) times that information has to travel.
    """
    wire = 0.0
    if network.mbit is not None:
        wire = ring_share(network.hosts) * count / payload_rate(network.mbit)
    if network.uplink_mbit is not None:
        wire = max(wire, ring_share(network.sites) * count / payload_rate(network.uplink_mbit))
    if count <= 64 * KIB:
        return wire + math.ceil(math.log2(network.hosts)) * half_round_trip
    return wire or None


def flat_ring_bytes(count: int, network: Network, ranks: int) -> float:
    """Bytes that leave hosts, of all hosts together, when ranks 0 … N-1 form a flat ring."""
    crossings = sum(
        network.host_of(rank, ranks) != network.host_of((rank + 1) % ranks, ranks)
        for rank in range(ranks)
    )
    return crossings * ring_share(ranks) * count


def least_bytes(count: int, network: Network) -> float:
    """Bytes that leave hosts, of all hosts together, in an all-reduce among hosts."""
    return network.hosts * ring_share(network.hosts) * count


def _rate_name(mbit: float | None) -> str:
    if mbit is None:
        return "unshaped"
    return f"{mbit / 1000:g}gbit" if mbit >= 1000 else f"{mbit:g}mbit"


def _four_hosts(mbit: float | None) -> Setting:
    sizes = [4 * KIB, 64 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB]
    if mbit == 100:
        sizes.remove(64 * MIB)  # nine seconds each, and nothing to learn
    quick = {1000.0: (64 * KIB, 16 * MIB), 10000.0: (64 * KIB, 16 * MIB)}.get(mbit or 0, ())
    rate = _rate_name(mbit)
    return Setting(
        name=f"hosts/4x1/{rate}",
        title=f"4 hosts of 1 rank, {rate}",
        ranks=4,
        sides=(GEARSHIFT, PLAIN_TCP, GLOO),
        points=tuple(
            Point(size_name(size), {"bytes": size}, size, _targets(size, mbit), size in quick)
            for size in sizes
        ),
        network=Network(4, mbit),
        kind="all_reduce",
    )


def _targets(size: int, mbit: float | None) -> tuple[Target, ...]:
    if size <= 64 * KIB:
        return (Target("ratio", 5, GLOO.name), Target("bound", 0.5, "bound"))
    if size < 4 * MIB:
        return ()
    if mbit is not None and mbit <= 1000:
        return (Target("bound", 0.99, "bound"),)
    return (Target("ratio", 1.5, GLOO.name),)


def _two_by_two(placement: str) -> Setting:
    cyclic = placement == "cyclic"
    network = Network(2, 1000.0, "cyclic" if cyclic else "block")
    return Setting(
        name=f"hosts/2x2/{placement}",
        title=f"2 hosts of 2 ranks, 1gbit, ranks placed {'0 2 | 1 3' if cyclic else '0 1 | 2 3'}",
        ranks=4,
        sides=(GEARSHIFT, GLOO),
        points=tuple(
            Point(
                size_name(size),
                {"bytes": size},
                size,
                (Target("bytes", 2, "flat ring, bytes"),),
                quick=not cyclic and size == 16 * MIB,
            )
            for size in (MIB, 16 * MIB)
        ),
        network=network,
        kind="all_reduce",
    )


def _two_sites() -> Setting:
    return Setting(
        name="hosts/sites/2x3",
        title="2 sites of 3 hosts of 1 rank, 1gbit within, 100mbit between",
        ranks=6,
        sides=(GEARSHIFT, GLOO),
        points=tuple(
            Point(
                size_name(size),
                {"bytes": size},
                size,
                # What the sites do within is not hidden behind what is between: 1.47 at best.
                (Target("ratio", 1.5 if size <= MIB else 1.4, GLOO.name),),
                quick=size == MIB,
            )
            for size in (4 * KIB, 64 * KIB, MIB, 4 * MIB, 16 * MIB)
        ),
        network=Network(6, 1000.0, sites=2, uplink_mbit=100.0),
        kind="all_reduce",
    )
