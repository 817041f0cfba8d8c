"""The model of the test network: its cluster file, with the parameters that are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...bench.hosts import burst_bytes
from ...errors import Error
from ...strategy import parse
from ..inputs import Source, read_cluster
from ..processes import Pool
from ..simulation import make_request
from .cases import STEPS, WARMUP, Cell, Configuration, workload
from .figures import step_seconds

MTU = 9000
PORT_QUEUE_SECONDS = 0.07
"""Of the switch: long enough that little is lost when several hosts send to one."""
PAYLOAD_SHARE = (MTU - 52) / (MTU + 14)
"""Of a link's rate: without the headers of IP, TCP (with timestamps) and Ethernet."""


@dataclass(frozen=True)
class Parameters:
    """What is not known of the test network beforehand, and the same for all of it."""

    efficiency: float = 1.0
    """Payload that gets through, as a share of what the headers leave: acknowledgements, pauses."""
    burst: float = 1.0
    """Bytes that pass at once after a pause, in proportion to the size of tbf's bucket. There are
    two buckets on the way, which also fill a little while a link is used, but not fully."""
    latency: float = 25e-6
    per_message: float = 20e-6

    def to_dict(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def cluster(cell: Cell, parameters: Parameters) -> Source:
    """The cluster file of a cell."""
    hosts: list[dict[str, Any]] = []
    first_server = len(cell.rates) - cell.servers
    for host, mbit in enumerate(cell.rates):
        hosts.append(
            {
                "name": f"host-{host}",
                "workers": 0 if host >= first_server else cell.workers,
                "servers": 1 if host >= first_server else 0,
                "bandwidth": mbit * 1e6 / 8 * PAYLOAD_SHARE * parameters.efficiency,
                "burst": round(burst_bytes(mbit) * parameters.burst),
                "queue": PORT_QUEUE_SECONDS,
                **({"zone": f"site-{cell.site_of(host)}"} if cell.uplink else {}),
            }
        )
    document: dict[str, Any] = {
        "name": cell.name,
        "defaults": {"latency": parameters.latency, "per_message": parameters.per_message},
        "hosts": hosts,
    }
    if cell.uplink:
        bandwidth = cell.uplink * 1e6 / 8 * PAYLOAD_SHARE * parameters.efficiency
        document["zones"] = [
            {"name": f"site-{site}", "bandwidth": bandwidth} for site in range(cell.sites)
        ]
    if cell.straggler != 1:
        name = hosts[first_server - 1]["name"]
        document["stragglers"] = [{"host": name, "factor": cell.straggler}]
    return read_cluster(document)


def predict(rows: Sequence[Configuration], parameters: Parameters, pool: Pool) -> dict[str, float]:
    """Step times by the rows' names.

    Raises:
        Error: when a simulation fails.
    """
    requests = [
        make_request(
            cluster(row.cell, parameters),
            workload(row.cell.workload),
            parse(row.strategy),
            STEPS,
            seed=1,
        )
        for row in rows
    ]
    found: dict[str, float] = {}

    def done(number: int, raw: dict[str, Any] | Error) -> None:
        if isinstance(raw, Error):
            raise raw
        found[rows[number].name] = step_seconds(raw["workers"], WARMUP)

    pool.run_all(requests, done)
    return found
