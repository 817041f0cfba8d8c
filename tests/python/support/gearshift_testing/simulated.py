"""A simulation's raw answer, small enough to compute its figures by hand.

Two workers, three steps. Worker 1 computes in 0.3 s, worker 0 in 0.2 s; communication takes 0.1 s
after the slower one. Steps are 0.4 s long, the first 0.5 s.
"""

from __future__ import annotations

from typing import Any

from gearshift.sim.inputs import WorkloadFacts
from gearshift.sim.messages import Request
from gearshift.sim.result import Result, make_result
from gearshift.strategy import parse

BEGIN = [0.0, 0.5, 0.9]
END = [0.5, 0.9, 1.3]
FACTS = WorkloadFacts(batch_size=8, compute_seconds=0.2)


def raw_answer() -> dict[str, Any]:
    """Of a synchronous strategy."""
    return {
        "virtual_seconds": 1.3,
        "wall_seconds": 0.01,
        "messages": 12,
        "workers": [
            worker(0, "fast", [0.2, 0.7, 1.1], exposed=0.7, communication=0.9),
            worker(1, "slow", [0.3, 0.8, 1.2], exposed=0.4, communication=0.6),
        ],
        "links": [
            {"name": "fast out", "bandwidth": 1000.0, "bytes": 650.0},
            {"name": "slow in", "bandwidth": 2000.0, "bytes": 650.0},
        ],
        "switches": [],
        "timeline": [
            (0, "computation", "forward", 0.0, 0.1),
            (0, "computation", "backward", 0.1, 0.2),
            (0, "communication", "bucket 0", 0.15, 0.35),
            (0, "communication", "bucket 1", 0.3, 0.5),
            (1, "computation", "forward", 0.0, 0.3),
            (2, "server", "update", 0.3, 0.4),
        ],
        "cluster": {
            "workers": 2,
            "servers": 0,
            "hosts": [
                {"name": "fast", "workers": 1, "servers": 0, "speed": 1.0},
                {"name": "slow", "workers": 1, "servers": 0, "speed": 0.5},
            ],
        },
    }


def worker(
    rank: int, host: str, computed: list[float], *, exposed: float, communication: float
) -> dict[str, Any]:
    """One of them."""
    return {
        "rank": rank,
        "host": host,
        "begin": list(BEGIN),
        "computed": computed,
        "end": list(END),
        "staleness": {},
        "exposed_seconds": exposed,
        "communication_seconds": communication,
        "bytes_sent": 300,
        "messages_sent": 6,
    }


def result(raw: dict[str, Any] | None = None, strategy: str = "all_reduce") -> Result:
    """The figures of an answer, one step of warm-up left out."""
    request = Request("", "c.toml", "", "w.toml", parse(strategy), steps=3)
    return make_result(raw or raw_answer(), request, ("pair", "toy"), FACTS, warmup=1)
