"""The rendezvous of a job on several hosts that torchrun started: through torchrun's own store."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from datetime import timedelta

from torch.distributed import TCPStore

from ..errors import InvalidArgument, TimeoutError
from ..launch import DEFAULT_TIMEOUT
from ..launch.environment import ProcessEnvironment

_KEY = "gearshift/rdzv"
"""Of all attempts. After a failure torchrun goes on with its store, and nothing tells which attempt
this is: each host counts only the restarts that its own processes have caused."""

_START_TIMEOUTS = 10
_LONGEST = 365 * 86400.0
_kept: list[tuple[TCPStore, str]] = []
"""The store, which rank 0 may serve itself, and to which the others come when they come; and the
address that it told, which counts for further sessions, too."""


def exchange_address(environment: ProcessEnvironment) -> str:
    """Agree on where rank 0 serves gearshift's rendezvous: "tcp://host:port". Collective.

    After a restart a rank that comes before rank 0 finds the former address: nobody answers there,
    and :func:`current_address` tells the new one as soon as there is one.

    Raises:
        InvalidArgument: when torchrun's variables are missing, or its store cannot be reached.
        TimeoutError: when rank 0 has not come within ten timeouts.
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
    seconds = min(environment.timeout or DEFAULT_TIMEOUT, _LONGEST)
    try:
        store = TCPStore(
            host,
            port,
            is_master=not shared and environment.rank == 0,
            wait_for_workers=False,
            timeout=timedelta(seconds=seconds),
        )
        if environment.rank == 0:
            store.set(_KEY, _free_address(host, port))
        address = _await(store, min(_START_TIMEOUTS * seconds, _LONGEST))
    except RuntimeError as error:
        if isinstance(error, TimeoutError):
            raise
        raise InvalidArgument(f"torchrun's store at {host}:{port}: {error}") from error
    _kept.append((store, address))
    return address


def current_address() -> str:
    """What rank 0 has told by now."""
    store, address = _kept[0]
    with contextlib.suppress(RuntimeError):  # a store that is gone will be missed elsewhere
        address = store.get(_KEY).decode()
    _kept[0] = (store, address)
    return address


def _await(store: TCPStore, seconds: float) -> str:
    """The address, once there is one. Looks again and again, so that Ctrl-C ends it."""
    deadline = time.monotonic() + seconds
    while not store.check([_KEY]):
        if time.monotonic() >= deadline:
            raise TimeoutError(
                f"after {seconds:g} s rank 0 has not said in torchrun's store where the job meets",
                rank=0,
            )
        time.sleep(0.1)
    return store.get(_KEY).decode()


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
