"""``init_method="gearshift://"``: the store of a job that any launcher has started.

So does PyTorch's default, ``env://``, where the launcher is not one that PyTorch understands.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlparse

from torch.distributed import HashStore, Store, TCPStore, rendezvous

from ... import _core
from ...errors import Error, InvalidArgument, TimeoutError
from ...launch import LaunchError
from ...launch.environment import ProcessEnvironment, detect
from ...launch.plan import split_endpoint

SCHEME = "gearshift"
_BY_TORCH = ("torchrun", "env")
"""Launchers whose variables PyTorch itself understands."""
_made = 0
"""Rendezvous that this process has been at: a store outlives process groups."""
_kept: list[Any] = []
"""Servers of rank 0: others may come to them late."""


def stores(
    _url: str, timeout: timedelta = timedelta(minutes=30), **_options: Any
) -> Iterator[tuple[Store, int, int]]:
    """Called by torch.distributed: the store of all processes, this one's rank, their number.

    Raises:
        InvalidArgument: when the environment contradicts itself, or the job has servers.
        TimeoutError: when rank 0 does not come.
    """
    try:
        environment = detect()
    except LaunchError as error:
        raise InvalidArgument(str(error)) from error
    if environment.servers > 0:
        raise InvalidArgument("a job with dedicated servers is one of gst.distribute: --servers 0")
    if environment.launcher in _BY_TORCH and "MASTER_ADDR" in os.environ:
        yield from rendezvous("env://", timeout=timeout)
    elif environment.world_size == 1:
        yield HashStore(), 0, 1
    else:
        yield _meet(environment, timeout), environment.rank, environment.world_size
    _once_only()


def widen_env() -> None:
    """Has ``env://`` find jobs that ``gearshift run``, mpirun or srun have started.

    Where nothing has started this process, or RANK is set or given, PyTorch's own answers as ever;
    below ``gearshift run`` a RANK that is set belongs to something above it. A release of PyTorch
    that keeps its handlers elsewhere needs ``init_method``.
    """
    handlers = getattr(sys.modules["torch.distributed.rendezvous"], "_rendezvous_handlers", {})
    theirs = handlers.get("env")
    if theirs is None:
        return

    def by_environment(url: str, **options: Any) -> Iterator[tuple[Store, int, int]]:
        given = "rank" in parse_qs(urlparse(url).query)
        yield from theirs(url, **options) if given or _by_torch() else stores(url, **options)

    handlers["env"] = by_environment


def _by_torch() -> bool:
    """Whether ``env://`` is for PyTorch. A launcher that contradicts itself is for us to tell."""
    try:
        launcher = detect().launcher
    except LaunchError:
        return "RANK" in os.environ
    return launcher == "none" or (launcher != "gearshift" and "RANK" in os.environ)


def _once_only() -> NoReturn:
    raise RuntimeError("unable to perform a second rendezvous by gearshift://")


def _meet(environment: ProcessEnvironment, timeout: timedelta) -> Store:
    """Rank 0 serves a store of torch's, and says where at the rendezvous of the job."""
    global _made
    rdzv, token = environment.rdzv or "", environment.token or ""
    seconds = timeout.total_seconds()
    first = environment.rank == 0
    if first and not rdzv.startswith("file:"):
        host, port = split_endpoint(rdzv)
        with contextlib.suppress(Error):  # a store runs there already, or cannot: the next tells
            _kept.append(_core.StoreServer(host, port, token))
    place = _core.Store(rdzv, token, seconds)
    key = f"c10d/{_made}"
    _made += 1
    if first:
        host = environment.interface or place.own_address
        store = TCPStore(host, 0, environment.world_size, True, timeout, wait_for_workers=False)
        _kept.append(store)
        place.set(key, f"{host} {store.port}")
        return store
    said = place.get(key, seconds)
    if said is None:
        raise TimeoutError(f"after {seconds:g} s rank 0 has not come to {rdzv}", rank=0)
    host, port_text = said.split()
    return TCPStore(host, int(port_text), environment.world_size, False, timeout)
