"""How the ranks of a process group find each other: through the store that torch gives them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.distributed import PrefixStore, Store, TCPStore

from ... import _core, _session
from ...errors import Error, InvalidArgument, TimeoutError
from ...launch import DEFAULT_TIMEOUT, LaunchError
from ...launch.ranks import name_ranks
from ...launch.token import environment_token, new_token
from ._answering import AnsweringStore
from ._ending import Watch
from ._forming import Forming
from ._waiting import Notices
from ._work import add_note, note_on

_MEET = "meet"
_LONGEST = 365 * 86400.0
_LOOPBACK = "127.0.0.1"


@dataclass
class Meeting:
    """A session, and the rendezvous that rank 0 serves for it."""

    session: _core.Session
    server: _core.StoreServer | None


def meet(store: Store, name: str, rank: int, patience: float, watch: Watch) -> Meeting:
    """Open the session of a process group. Collective.

    Args:
        store: of the process group alone.
        name: of the process group and its members.
        patience: seconds to wait for the other ranks.
        watch: what is known of its ranks elsewhere.

    Raises:
        InvalidArgument: for environment variables that make no sense.
        TimeoutError: when another rank does not come.
        PeerLost: when another rank has failed, or has left the job.
    """
    size = len(watch.members)
    if size == 1:
        _own_token()
        return Meeting(_open(rank, size, 1, "", "", _timeout(), None), None)
    watch.check_job()
    answer = DEFAULT_TIMEOUT
    with contextlib.suppress(InvalidArgument):  # of which the others are told below
        answer = _timeout()
    keys = AnsweringStore(PrefixStore(f"gearshift/{name}/{size}", store), watch, answer)
    forming = Forming(keys, rank, watch, answer)
    formed = False
    try:
        # A store outlives process groups, and what they were told. It counts itself: processes may
        # have been in other groups at other stores.
        keys.go_below(str(keys.add(f"arrivals/{rank}", 1)))
        forming.begin()
        meeting = _Arrival(store, keys, rank, patience, forming, watch).meet()
        formed = True
        return meeting
    except BaseException as error:
        account = forming.account(error)
        if account is error:
            raise
        raise account from error
    finally:
        forming.end(formed)
        keys.close()


class _Arrival:
    """One rank on its way into a group of several."""

    def __init__(
        self,
        store: Store,
        keys: AnsweringStore,
        rank: int,
        patience: float,
        forming: Forming,
        watch: Watch,
    ) -> None:
        self._store = store
        self._keys = keys
        self._rank = rank
        self._members = watch.members
        self._patience = min(patience, _LONGEST)
        self._deadline = time.monotonic() + self._patience
        self._forming = forming
        self._watch = watch

    def meet(self) -> Meeting:
        timeout, token = _timeout(), _own_token()
        self._notices = Notices()
        self._keys.set(_host_key(self._rank), _host_identity())
        server = self._serve(token) if self._rank == 0 else None
        told = json.loads(self._await(_MEET, 0))
        token = told["token"] or token
        if token is None:
            raise InvalidArgument("rank 0 has a GEARSHIFT_TOKEN, this process has none")
        nodes, rdzv = int(told["nnodes"]), told["rdzv"]
        go_on = self._forming.check
        try:
            session = _open(self._rank, len(self._members), nodes, rdzv, token, timeout, go_on)
        except Error as error:
            if error is not self._forming.found:
                add_note(error, note_on(self._members))
            raise
        return Meeting(session, server)

    def _serve(self, given: str | None) -> _core.StoreServer:
        hosts = {self._await(_host_key(r), r) for r in range(len(self._members))}
        token = given or new_token()
        address = _own_address(self._store) if len(hosts) > 1 else _LOOPBACK
        server = _core.StoreServer(address, 0, token)
        told = {
            "rdzv": f"tcp://{server.address}",
            "nnodes": len(hosts),
            # One that the user has set is the user's to pass on.
            "token": "" if given else token,
        }
        self._keys.set(_MEET, json.dumps(told))
        return server

    def _await(self, key: str, rank: int) -> str:
        """The value of a key, once `rank` has set it. Looks again and again, so that Ctrl-C ends
        it."""
        pause = 0.001
        member = self._members[rank]
        left = self._watch.has_left(member)  # it sets the key before
        while not self._keys.has(key):
            self._forming.check()
            if left is not None:
                raise left
            left = self._watch.has_left(member)
            if self._notices.due():
                self._say_who_has_come()
            if time.monotonic() >= self._deadline:
                raise self._give_up()
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        return self._keys.get(key)

    def _say_who_has_come(self) -> None:
        """The first of those who have."""
        if self._rank != 0 and self._keys.has(_host_key(0)):
            return
        here, missing = self._roll()
        if missing and self._rank == here[0]:
            self._notices.give(
                f"the process group waits for {self._names(missing)} of {len(self._members)}; "
                f"come so far: {self._names(here)}"
            )

    def _roll(self) -> tuple[list[int], list[int]]:
        """Who has come, and who has not."""
        ranks = range(len(self._members))
        come = self._keys.which([_host_key(r) for r in ranks])
        return [r for r in ranks if come[r]], [r for r in ranks if not come[r]]

    def _names(self, ranks: list[int]) -> str:
        return name_ranks(self._members[r] for r in ranks)

    def _give_up(self) -> TimeoutError:
        _, missing = self._roll()
        missing = missing or [0]  # it has not said yet where all meet
        why = (
            f"after {self._patience:g} s these of {len(self._members)} processes have not come to "
            f"the process group: {self._names(missing)}"
        )
        return TimeoutError(why, rank=missing[0])


def _open(
    rank: int,
    size: int,
    nnodes: int,
    rdzv: str,
    token: str,
    timeout: float,
    go_on: Callable[[], None] | None,
) -> _core.Session:
    return _core.Session(
        rank=rank,
        world_size=size,
        servers=0,
        nnodes=nnodes,
        rdzv=rdzv,
        token=token,
        timeout=timeout,
        interface=os.environ.get("GEARSHIFT_INTERFACE", ""),
        transports=_session._transports(None),
        go_on=go_on,
    )


def _own_token() -> str | None:
    try:
        return environment_token(os.environ)
    except LaunchError as error:
        raise InvalidArgument(str(error)) from error


def _timeout() -> float:
    text = os.environ.get("GEARSHIFT_TIMEOUT", "")
    if not text:
        return DEFAULT_TIMEOUT
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if seconds > 0:
            return min(seconds, _LONGEST)
    raise InvalidArgument(f"GEARSHIFT_TIMEOUT must be a positive number of seconds, got {text!r}")


def _host_key(rank: int) -> str:
    return f"host/{rank}"


def _host_identity() -> str:
    """Equal for processes that reach each other's loopback interface, and for no others."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    network = Path("/proc/self/ns/net")
    with contextlib.suppress(OSError):
        return f"{boot.read_text().strip()} {network.readlink()}"
    return socket.gethostname()


def _own_address(store: Store) -> str:
    """This host's address, as seen on the way to the process group's store."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    # No packet is sent to either; any address beyond this network will do for the second.
    host, port = (store.host, store.port) if isinstance(store, TCPStore) else ("192.0.2.1", 9)
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        own = str(probe.getsockname()[0])
    return own
