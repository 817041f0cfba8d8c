"""What is compared: cells (a network and what is trained on it), and the strategies in each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..inputs import Source, read_workload

STEPS = 10
WARMUP = 2


@dataclass(frozen=True)
class Cell:
    """A network, and what is trained on it by several strategies."""

    name: str
    rates: tuple[float, ...]
    """Mbit/s of each host's link."""
    workload: str
    strategies: tuple[str, ...]
    workers: int = 1
    """On each host that has any."""
    servers: int = 0
    """Dedicated ones, each on a host of its own: the last hosts."""
    straggler: float = 1.0
    """How many times as long the last worker host computes."""
    sites: int = 1
    """At which equal parts of the hosts are."""
    uplink: float = 0
    """Mbit/s of each site's link to the others."""

    def site_of(self, host: int) -> int:
        """The number of a host's site."""
        return host * self.sites // len(self.rates)

    @property
    def worker_hosts(self) -> list[int]:
        """By rank: the number of its host."""
        hosts = len(self.rates) - self.servers
        return [host for host in range(hosts) for _ in range(self.workers)]

    @property
    def server_hosts(self) -> list[int]:
        """By dedicated server: the number of its host."""
        return list(range(len(self.rates) - self.servers, len(self.rates)))


@dataclass(frozen=True)
class Configuration:
    """One row of the table."""

    cell: Cell
    strategy: str

    @property
    def name(self) -> str:
        """Of the row."""
        return f"{self.cell.name}/{self.strategy}"


CELLS = (
    Cell(
        "2x200",
        (200,) * 2,
        "10 MB",
        ("all_reduce:ring", "all_reduce:rabenseifner", "ps:bsp", "ps:bsp(shards=1)", "ps:asp"),
    ),
    Cell(
        "4x200",
        (200,) * 4,
        "10 MB",
        (
            "all_reduce",
            "all_reduce:ring",
            "all_reduce:recursive_doubling",
            "all_reduce:rabenseifner",
            "all_reduce:tree",
            "ps:bsp",
            "ps:bsp(shards=1)",
            "ps:bsp(shards=2)",
            "ps:ssp(2)",
        ),
    ),
    Cell(
        "4x200-straggler",
        (200,) * 4,
        "10 MB",
        ("all_reduce:ring", "ps:bsp", "ps:ssp(2)", "ps:asp"),
        straggler=5.0,
    ),
    Cell(
        "4x50",
        (50,) * 4,
        "1 MB",
        (
            "all_reduce",
            "all_reduce:ring",
            "all_reduce:recursive_doubling",
            "all_reduce:tree",
            "ps:bsp",
            "ps:asp",
        ),
    ),
    Cell(
        "4x1000",
        (1000,) * 4,
        "40 MB",
        (
            "all_reduce:ring",
            "all_reduce:rabenseifner",
            "all_reduce:tree",
            "ps:bsp",
            "ps:bsp(shards=2)",
        ),
    ),
    Cell(
        "8x200",
        (200,) * 8,
        "10 MB",
        ("all_reduce", "all_reduce:ring", "all_reduce:rabenseifner", "ps:bsp"),
    ),
    Cell(
        "3x200+1x50",
        (200, 200, 200, 50),
        "10 MB",
        (
            "all_reduce",
            "all_reduce:ring",
            "all_reduce:rabenseifner",
            "ps:bsp",
            "ps:bsp(shards=2)",
        ),
    ),
    Cell("1x1000+2x200-straggler", (1000, 200, 200), "10 MB",
         ("all_reduce:ring", "ps:bsp", "ps:asp"), straggler=4.0),
    Cell("4x200+1-server", (200,) * 5, "10 MB", ("ps:bsp", "ps:asp"), servers=1),
    Cell("4x1000+2-servers", (1000,) * 6, "40 MB", ("ps:bsp", "ps:ssp(2)"), servers=2),
    Cell(
        "4x200-of-2-ranks",
        (200,) * 4,
        "10 MB",
        ("all_reduce", "all_reduce:ring", "all_reduce:hierarchical", "ps:bsp"),
        workers=2,
    ),
    Cell(
        "2-sites-of-3x200",
        (200,) * 6,
        "10 MB",
        ("all_reduce", "all_reduce:ring", "all_reduce:tree", "ps:bsp"),
        sites=2,
        uplink=50,
    ),
)  # fmt: skip
QUICK = ("2x200", "4x50")


def configurations(cells: Sequence[Cell]) -> list[Configuration]:
    """All rows, cell by cell."""
    return [Configuration(cell, strategy) for cell in cells for strategy in cell.strategies]


def calibrating(rows: Sequence[Configuration]) -> set[str]:
    """Names of the half that calibrates: in each cell every second row, by their SHA-256.

    Neither results nor taste choose: the order is as good as random, and the same each time. Each
    cell is in both halves, so that no half lacks what is particular to one.
    """
    cells: dict[str, list[str]] = {}
    for row in rows:
        cells.setdefault(row.cell.name, []).append(row.name)
    names = [
        name
        for cell in sorted(cells)
        for name in sorted(cells[cell], key=lambda n: hashlib.sha256(f"2:{n}".encode()).digest())
    ]
    return set(names[1::2])


def workload(name: str) -> Source:
    """A made-up network of so many MB.

    Small tensors in front and large ones at the end, as in image classifiers; backward takes twice
    as long as forward, and equal times for each pair of weight and bias.
    """
    sizes, forward = {
        "1 MB": ([1, 2, 4, 8, 16, 32], 0.02),
        "10 MB": ([1, 1, 2, 4, 4, 8, 8, 16, 16, 20], 0.05),
        "40 MB": ([1, 1, 2, 2, 4, 4, 8, 8, 8, 16, 16, 16, 24, 32], 0.15),
    }[name]
    total = float(name.split()[0]) * 1e6 / 4
    parameters: list[dict[str, Any]] = []
    for i, size in enumerate(sizes):
        ready = 2 * forward * (len(sizes) - i) / len(sizes)
        columns = 256
        rows = round(total * size / sum(sizes) / columns)
        parameters.append({"name": f"layer{i}.weight", "shape": [rows, columns], "ready": ready})
        parameters.append({"name": f"layer{i}.bias", "shape": [columns], "ready": ready})
    return read_workload(
        {
            "name": name,
            "batch_size": 8,
            "forward": forward,
            "backward": 2 * forward,
            "optimizer": 0.1 * forward,
            "parameters": parameters,
        }
    )
