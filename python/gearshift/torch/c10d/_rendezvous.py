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
from ._waiting import Notices, patiently

SCHEME = "gearshift"
_BY_TORCH = ("torchrun", "env")
"""Launchers whose variables PyTorch itself understands."""
_LOOK = 1.0
"""Seconds from one look for rank 0 to the next."""
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
        _once_only()
    alone = environment.world_size == 1
    store = HashStore() if alone else _meet(environment, timeout)
    if environment.launcher == "gearshift":
        _tell_libraries(environment, store)
    yield store, environment.rank, environment.world_size
    _once_only()


def _tell_libraries(environment: ProcessEnvironment, store: Store) -> None:
    """Set what torchrun would have set: Accelerate and others look there for a process group.

    Only now that one begins: such libraries would begin their own in scripts that do without. What
    is set already belongs to something above ``gearshift run``. Here and in :func:`gearshift.init`
    our own variables come before these.
    """
    names = ("rank", "world_size", "local_rank", "local_world_size")
    told = {name.upper(): str(getattr(environment, name)) for name in names}
    if isinstance(store, TCPStore):
        told |= {"MASTER_ADDR": store.host, "MASTER_PORT": str(store.port)}
    os.environ.update(told)


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


def attend_stores() -> None:
    """Has PyTorch's ``env://`` and ``tcp://`` tell whom they wait for, and end with Ctrl-C.

    They wait in C++, and rank 0 there for all others; now it waits where its process group is
    formed, as under torchrun. A release of PyTorch that makes its stores elsewhere goes on as it
    does.
    """
    module = sys.modules["torch.distributed.rendezvous"]
    if getattr(module, "TCPStore", None) is TCPStore:
        module.TCPStore = _attended_store  # type: ignore[attr-defined]


def _attended_store(
    host_name: str,
    port: int,
    world_size: int | None = None,
    is_master: bool = False,
    timeout: timedelta = timedelta(minutes=5),
    **options: Any,
) -> TCPStore:
    """A `torch.distributed.TCPStore`."""
    if is_master:
        options["wait_for_workers"] = False
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    server = "the agent of torchrun" if agent else "rank 0"
    notices = Notices()
    try:
        return patiently(
            lambda: TCPStore(host_name, port, world_size, is_master, timeout, **options),
            notices,
            f"{server}, whose store is to be at {host_name}:{port}",
        )
    except RuntimeError as error:
        if not is_master and notices.waited() >= timeout.total_seconds():
            error.args = (f"{error}\n{server}, which serves that store, has not come",)
        raise


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
    notices = Notices()
    place = _find_place(rdzv, token, seconds, notices)
    key = f"c10d/{_made}"
    _made += 1
    if first:
        host = environment.interface or place.own_address
        store = TCPStore(host, 0, environment.world_size, True, timeout, wait_for_workers=False)
        _kept.append(store)
        place.set(key, f"{host} {store.port}")
        return store
    while (said := place.get(key, _LOOK)) is None:
        _go_on(rdzv, seconds, notices)
    host, port_text = said.split()
    return _attended_store(host, int(port_text), environment.world_size, False, timeout)


def _find_place(rdzv: str, token: str, seconds: float, notices: Notices) -> _core.Store:
    """The rendezvous of the job, once rank 0 serves it. Looks again and again, for Ctrl-C."""
    while True:
        try:
            return _core.Store(rdzv, token, min(seconds, _LOOK))
        except TimeoutError:
            _go_on(rdzv, seconds, notices)


def _go_on(rdzv: str, seconds: float, notices: Notices) -> None:
    """Raises when rank 0 has been waited for long enough."""
    if notices.waited() >= seconds:
        raise TimeoutError(f"after {seconds:g} s rank 0 has not come to {rdzv}", rank=0)
    if notices.due():
        notices.give(f"waiting for rank 0, which has not come to {rdzv}")
