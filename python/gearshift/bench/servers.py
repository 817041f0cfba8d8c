"""Cases of the Parameter Server: push and pull of 100 MB, ours against one over torch's RPC."""

from __future__ import annotations

from .across_hosts import payload_rate
from .case import OURS, Network, Point, Setting, Side, Target

RPC = "torch RPC"
TOTAL = 100_000_000
"""Bytes of parameters, and of each gradient."""
_MBIT = 1000.0


def settings() -> list[Setting]:
    """Synchronous and asynchronous, in the workers and dedicated, on one host and on several."""
    return [
        _setting(consistency, workers, servers, network)
        for network in (False, True)
        for workers in (2, 4)
        for servers in (0, 2)
        for consistency in ("bsp", "asp")
    ]


def bound_seconds(link_bytes: float) -> float:
    """For the bytes that one direction of the busiest link carries for a push and pull."""
    return link_bytes / payload_rate(_MBIT)


def _setting(consistency: str, workers: int, servers: int, network: bool) -> Setting:
    place = "hosts" if network else "one_host"
    kind = "dedicated" if servers else "colocated"
    where = f"{workers + servers} hosts at {_MBIT / 1000:g}gbit" if network else "one host"
    words = (f"consistency={consistency}", f"bytes={TOTAL}")
    tcp = ("transport=tcp",) if network else ()
    wire = (Target("bound", 0.97, "bound"),) if network else ()
    return Setting(
        name=f"servers/{place}/{workers}/{kind}/{consistency}",
        title=f"parameter server, {consistency}, {workers} workers, {kind}, {where}",
        ranks=workers,
        sides=(
            Side(OURS, "server/push_pull.py", words, modules=("torch",), servers=servers),
            Side(RPC, "server/torch_rpc.py", (*words, *tcp), modules=("torch",), servers=servers),
        ),
        points=(
            Point(
                "100MB",
                {"steps": 3, "warmup": 1},
                targets=(Target("ratio", 3, RPC), *wire),
                quick=workers == 2 and not servers and not network and consistency == "bsp",
                calibrated=False,
                rounds=5,
            ),
        ),
        network=Network(workers + servers, _MBIT) if network else None,
        kind="servers",
    )
