"""What one process of a job tells the others of itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..launch.environment import ProcessEnvironment
from .finding import Finding
from .interfaces import Interface, list_interfaces, owner_of
from .processors import Processors
from .variables import shown
from .versions import Versions


@dataclass(frozen=True)
class Process:
    """Travels as JSON."""

    rank: int
    local_rank: int
    node: int
    host: str
    boot: str
    """Of the machine, which several containers may share."""
    address: str
    """Where it listens."""
    interface: str
    mtu: int | None
    port: int | None
    """On which the first process of a host takes the others' trial connections."""
    versions: Mapping[str, Any]
    settings: Mapping[str, str]
    allowed: int
    simd: str | None
    omp_threads: str | None
    findings: Sequence[Finding] = ()
    """Of the first process of a host, about that host."""

    @staticmethod
    def here(
        environment: ProcessEnvironment,
        address: str,
        port: int | None,
        findings: Sequence[Finding],
    ) -> Process:
        processors = Processors.collect(environment.local_world_size)
        interface = _owner(address)
        return Process(
            rank=environment.rank,
            local_rank=environment.local_rank,
            node=environment.node_rank,
            host=socket.gethostname(),
            boot=_boot(),
            address=address,
            interface=interface.name if interface else "",
            mtu=interface.mtu if interface else None,
            port=port,
            versions=asdict(Versions.collect()),
            settings=shown(os.environ),
            allowed=processors.allowed,
            simd=processors.simd,
            omp_threads=processors.omp_threads,
            findings=findings,
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "findings": [finding.to_json() for finding in self.findings]}

    @staticmethod
    def from_json(told: Mapping[str, Any]) -> Process:
        return Process(**{**told, "findings": [Finding(**finding) for finding in told["findings"]]})


def labels(processes: Iterable[Process]) -> dict[int, str]:
    """A name of the host for each rank; with its address where several are called alike."""
    listed = list(processes)
    nodes: dict[str, set[int]] = {}
    for process in listed:
        nodes.setdefault(process.host, set()).add(process.node)
    return {p.rank: f"{p.host} ({p.address})" if len(nodes[p.host]) > 1 else p.host for p in listed}


def _owner(address: str) -> Interface | None:
    try:
        return owner_of(address, list_interfaces())
    except OSError:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
