"""One process of a calibration: ``python -m gearshift.sim.calibration.probe FILE``.

Run it on two processes of a host, or on one process of each host of a job: rank 0 writes what was
measured between itself and each other to FILE, as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from ...errors import Error, PeerLost, TimeoutError
from ...launch import EXIT_PEER_LOST, LaunchError
from ...launch.environment import detect
from ...report.files import check_writable, io_text
from .. import extension

SIZES = [2**k for k in range(6, 25, 2)]
"""Bytes, 64 B to 16 MiB."""
ROUND_TRIPS = 200
_USAGE_ERROR = 2


def main(path: Path) -> None:
    """Measure; what hinders the file ends rank 0 before the others wait for it."""
    try:
        _measure(path)
    except (PeerLost, TimeoutError) as error:
        _end(str(error), EXIT_PEER_LOST)  # somebody else says why
    except (Error, LaunchError) as error:
        _end(str(error), _USAGE_ERROR)
    except OSError as error:
        _end(io_text(error), _USAGE_ERROR)
    except KeyboardInterrupt:  # of which the launcher tells
        sys.exit(128 + signal.SIGINT)


def _end(told: str, code: int) -> NoReturn:
    print(f"gearshift.sim.calibration.probe: {told}", file=sys.stderr)
    sys.exit(code)


def _measure(path: Path) -> None:
    place = detect()
    if place.world_size == 1:
        raise LaunchError("one process has no link: start it on two, or on one of each host")
    if place.rank == 0:
        check_writable(path)
    session = extension.load().PacedSession()
    hosts = session.hosts()
    links = [_link(session, rank, hosts[rank] == hosts[0]) for rank in range(1, len(hosts))]
    found: dict[str, Any] = {"hosts": hosts, "links": links}
    if session.rank == 0:
        found["work"] = session.probe_work()
    session.close()
    if session.rank == 0:
        path.write_text(json.dumps(found), encoding="utf-8")


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
