"""What a benchmark case is made of: sides, orders, targets. Only data; see registry.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OURS = "gearshift"


@dataclass(frozen=True)
class Side:
    """One contestant: a program, and how its ranks are started."""

    name: str
    program: str
    """In ``bench/`` when it ends with ``.py``, else a program of the build."""
    arguments: tuple[str, ...] = ()
    start: Literal["ranks", "mpirun", "fork"] = "ranks"
    """One process per rank; through mpirun; or one process that forks, given ``--ranks``."""
    modules: tuple[str, ...] = ()
    """Python modules without which it cannot run."""
    servers: int = 0
    """Dedicated servers of gearshift, in addition to the ranks; they have no gate."""
    env: Mapping[str, str] = field(default_factory=dict)
    gated: bool = True
    """False: it knows no gate and is started for each turn."""


TargetKind = Literal["ratio", "difference", "bound", "bytes", "memory"]


@dataclass(frozen=True)
class Target:
    """What a case is to reach; targets.py checks it."""

    kind: TargetKind
    """
    * ``ratio``: the peer's time, divided by ours, is at least `limit`;
    * ``difference``: the peer, a front end of ours, takes at most `limit` seconds more than we;
    * ``bound``: what the wire allows, divided by our time, is at least `limit`;
    * ``bytes``: those that a flat ring moves between hosts, divided by ours, are at least `limit`;
    * ``memory``: we need at most `limit` times the gradients more than the peer does.
    """
    limit: float
    against: str
    """A side, or what stands for it in the table."""


@dataclass(frozen=True)
class Network:
    """Hosts to be made out of network namespaces."""

    hosts: int
    mbit: float | None = None
    """Rate of each host's link, in each direction; None: unshaped."""
    placement: Literal["block", "cyclic"] = "block"
    """Of ranks on hosts: 0 0 1 1, or 0 1 0 1."""
    sites: int = 1
    """The first hosts are at the first site."""
    uplink_mbit: float | None = None
    """Rate of each site's link to the others, in each direction; None: unshaped."""

    def host_of(self, rank: int, world: int) -> int:
        """The host that a rank lives on, dedicated servers included."""
        return rank * self.hosts // world if self.placement == "block" else rank % self.hosts


@dataclass(frozen=True)
class Point:
    """One order at which a setting is measured; with its setting, a case."""

    name: str
    order: Mapping[str, int | str] = field(default_factory=dict)
    bytes: int | None = None
    """Of the array, for those cases that have one."""
    targets: tuple[Target, ...] = ()
    quick: bool = False
    """Whether --quick measures it."""
    calibrated: bool = True
    """The driver chooses `operations` and `batches` by the time that an operation takes."""
    rounds: int | None = None
    """How often each side has its turn; None: as many as there is time for."""


@dataclass(frozen=True)
class Setting:
    """Processes that are started once, and measured at several orders."""

    name: str
    title: str
    ranks: int
    sides: tuple[Side, ...]
    """Ours first."""
    points: tuple[Point, ...]
    network: Network | None = None
    kind: Literal["all_reduce", "servers", "other"] = "other"
    """What is measured, where results.py knows bounds for it."""

    def cases(self) -> list[str]:
        """The names of its cases."""
        return [f"{self.name}/{point.name}" for point in self.points]


def size_name(count: int) -> str:
    """``64KiB`` for 65536."""
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count % size == 0:
            return f"{count // size}{unit}"
    return f"{count}B"
