"""One process of a calibration: ``python -m gearshift.sim.calibration.probe FILE``.

Run it on two processes of a host, or on one process of each host of a job: rank 0 writes what was
measured between itself and each other to FILE, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .. import extension

SIZES = [2**k for k in range(6, 25, 2)]
"""Bytes, 64 B to 16 MiB."""
ROUND_TRIPS = 200


def main(path: Path) -> None:
    session = extension.load().PacedSession()
    if session.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)  # rather fail now than after measuring
    hosts = session.hosts()
    links = [_link(session, rank, hosts[rank] == hosts[0]) for rank in range(1, len(hosts))]
    found: dict[str, Any] = {"hosts": hosts, "links": links}
    if session.rank == 0:
        found["work"] = session.probe_work()
        path.write_text(json.dumps(found), encoding="utf-8")
    session.close()


def _link(session: Any, rank: int, same_host: bool) -> dict[str, Any]:
    seconds, per_message = session.probe_link(0, rank, SIZES, ROUND_TRIPS)
    return {
        "rank": rank,
        "same_host": same_host,
        "sizes": SIZES,
        "seconds": seconds,
        "per_message": per_message,
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: gearshift run --nnodes N … -m gearshift.sim.calibration.probe FILE")
    main(Path(sys.argv[1]))
