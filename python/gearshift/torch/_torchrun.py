"""The rendezvous of a job on several hosts that torchrun started: through torchrun's own store."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

from torch.distributed import TCPStore

from ..errors import InvalidArgument
from ..launch import DEFAULT_TIMEOUT
from ..launch.environment import ProcessEnvironment

_kept: list[tuple[TCPStore, str]] = []
"""The store, which rank 0 may serve itself, and to which the others come when they come; and the
address that it told, which counts for further sessions, too."""


def exchange_address(environment: ProcessEnvironment) -> str:
    """Agree on where rank 0 serves gearshift's rendezvous: "tcp://host:port". Collective.

    Raises:
        InvalidArgument: when torchrun's variables are missing, or its store cannot be reached.
    """
    if _kept:
        return _kept[0][1]
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise InvalidArgument(
            "torchrun's MASTER_ADDR and MASTER_PORT are not set; set GEARSHIFT_RDZV=HOST:PORT "
            "instead, to an address of rank 0's host and a free port there"
        ) from error
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    seconds = environment.timeout or DEFAULT_TIMEOUT
    try:
        store = TCPStore(
            host,
            port,
            is_master=not shared and environment.rank == 0,
            wait_for_workers=False,
            timeout=timedelta(seconds=seconds),
        )
        key = f"gearshift/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/rdzv"
        if environment.rank == 0:
            store.set(key, _free_address(host, port))
        address = store.get(key).decode()
    except RuntimeError as error:
        raise InvalidArgument(f"torchrun's store at {host}:{port}: {error}") from error
    _kept.append((store, address))
    return address


def _free_address(host: str, port: int) -> str:
    """An address of this host, as seen on the way to torchrun's store, and a port free now."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        own = probe.getsockname()[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((own, 0))
        free = probe.getsockname()[1]
    return f"tcp://[{own}]:{free}" if ":" in own else f"tcp://{own}:{free}"
