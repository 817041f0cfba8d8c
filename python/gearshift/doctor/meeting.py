"""Where the processes of a job meet before they have connections: at the job's own rendezvous.

What they tell each other there reaches rank 0 even if they could never form a session: because some
are missing, versions differ, or a firewall stands between them.
"""

from __future__ import annotations

import importlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from ..errors import Error, MismatchError
from ..launch.environment import ProcessEnvironment
from .finding import Finding, problem
from .variables import token_mark

_SLICE = 0.3
_LOOK = 3.0
"""After so long without the interpreter a Ctrl-C is acted upon."""
_LOST_GRACE = 2.0
_MARGIN = 15.0
"""Rank 0 may have begun to wait later than this process."""
_HELLO = "hello"
_LOST_KEY = "lost"
"""Where launchers say that a rank has ended (src/runtime/arrival.h)."""


class MeetingError(Exception):
    """This process cannot meet the others; `finding` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


@dataclass
class Roll:
    """Who has come: what each of them told, by rank."""

    told: dict[int, Any] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    lost: str = ""
    """What a launcher says of a rank that has ended."""


class Meeting:
    """A process's place at the rendezvous; rank 0 serves it, unless a store runs there already.

    Raises:
        MeetingError: when the rendezvous cannot be reached within `patience` seconds.
    """

    def __init__(self, environment: ProcessEnvironment, patience: float) -> None:
        self._core: Any = importlib.import_module("gearshift._core")
        self._rank, self._size = environment.rank, environment.world_size
        self._patience = patience
        self._is_folder = (environment.rdzv or "").startswith("file://")
        self._server, refused = self._serve(environment)
        self._store = self._open(environment, refused)

    @property
    def own_address(self) -> str:
        """This end of the way to the rendezvous."""
        return str(self._store.own_address)

    def introduce(self, process: dict[str, Any]) -> Roll:
        """:meth:`tell` who this process is.

        Raises:
            MeetingError: also when another one has come as the same rank.
        """
        # A folder keeps what earlier jobs have told there.
        there = None if self._is_folder else self._get(f"doctor/{_HELLO}/{self._rank}", 0.0)
        if there is not None:
            raise MeetingError(_twice(self._rank, json.loads(there)))
        return self.tell(_HELLO, process)

    def tell(self, name: str, value: Any) -> Roll:
        """Tell rank 0 something, once for each name. Collective; the roll is full on rank 0 only.

        Raises:
            MeetingError: when the rendezvous does not answer any more.
        """
        self._set(f"doctor/{name}/{self._rank}", value)
        roll = Roll()
        if self._rank != 0:
            return roll
        deadline = time.monotonic() + self._patience
        absent = list(range(self._size))
        while True:
            absent = [rank for rank in absent if not self._take(name, rank, roll, 0.0)]
            rest = deadline - time.monotonic()
            if not absent or rest <= 0:
                roll.missing = absent
                return roll
            if not roll.lost:
                roll.lost = self._get(_LOST_KEY, 0.0) or ""
                if roll.lost:
                    deadline = min(deadline, time.monotonic() + _LOST_GRACE)
            self._take(name, absent[0], roll, min(_SLICE, rest))

    def hear(self, name: str, value: Any = None) -> Any:
        """What rank 0 says: its `value`. Collective.

        Raises:
            MeetingError: when rank 0 says nothing.
        """
        key = f"doctor/{name}"
        if self._rank == 0:
            self._set(key, value)
            return value
        deadline = time.monotonic() + self._patience + _MARGIN
        text = None
        while text is None and time.monotonic() < deadline:
            text = self._get(key, _LOOK)
        if text is None:
            raise MeetingError(
                problem(
                    "meeting",
                    f"rank 0 has come to the rendezvous, and says nothing about {name!r}",
                    "it has ended, or is frozen",
                    "see what it printed on its host",
                )
            )
        return json.loads(text)

    def _take(self, name: str, rank: int, roll: Roll, patience: float) -> bool:
        """Whether the rank has told its part by then."""
        if rank not in roll.told:
            text = self._get(f"doctor/{name}/{rank}", patience)
            if text is None:
                return False
            roll.told[rank] = json.loads(text)
        return True

    def _open(self, environment: ProcessEnvironment, refused: str) -> Any:
        deadline = time.monotonic() + self._patience
        while True:
            look = min(_LOOK, max(0.1, deadline - time.monotonic()))
            try:
                return self._core.Store(environment.rdzv or "", environment.token or "", look)
            except Error as error:
                if error.code != "timeout" or time.monotonic() >= deadline:
                    raise MeetingError(diagnose(environment, error, refused)) from error

    def _serve(self, environment: ProcessEnvironment) -> tuple[Any, str]:
        rdzv = environment.rdzv or ""
        if environment.rank != 0 or rdzv.startswith("file://"):
            return None, ""
        host, _, port = rdzv.removeprefix("tcp://").rpartition(":")
        try:
            return self._core.StoreServer(host.strip("[]"), int(port), environment.token or ""), ""
        except Error as error:
            return None, str(error)

    def _set(self, key: str, value: Any) -> None:
        try:
            self._store.set(key, json.dumps(value))
        except Error as error:
            raise MeetingError(_gone(error)) from error

    def _get(self, key: str, patience: float) -> str | None:
        try:
            found = self._store.get(key, patience)
        except Error as error:
            raise MeetingError(_gone(error)) from error
        return None if found is None else str(found)


def _twice(rank: int, other: dict[str, Any]) -> Finding:
    who = f"{other.get('host')} ({other.get('address')}) has come as node {other.get('node')}"
    return problem(
        "node rank",
        f"rank {rank} is there already: {who}, as this host does",
        "each host has a number of its own, and a store serves one job",
        "give --node-rank 0, 1, … on one host each (0 where it is left out), and a port of its own "
        "to each job",
    )


def _gone(error: Error) -> Finding:
    return problem(
        "meeting",
        f"the rendezvous does not answer any more: {error}",
        "who serves it, usually rank 0, has ended",
        "see what it printed on its host",
    )


def diagnose(environment: ProcessEnvironment, error: Error, refused: str = "") -> Finding:
    """Why this process does not get to the rendezvous, and what to do about it.

    `refused`: why rank 0 could not serve it.
    """
    where = (environment.rdzv or "").removeprefix("tcp://")
    text = f"{error}" + (f" (rank 0 could not serve it itself: {refused})" if refused else "")
    found = f"rank {environment.rank} cannot meet the others at {where}: {text}"
    if error.code == "unauthenticated":
        mark = token_mark(environment.token or "")
        return problem(
            "token",
            found,
            "the other side has another token, or is no gearshift process",
            f"the mark of the token here is {mark}; compare it with `gearshift doctor` on node 0, "
            "and set the same GEARSHIFT_TOKEN or GEARSHIFT_TOKEN_FILE everywhere",
        )
    if isinstance(error, MismatchError):
        return problem(
            "versions", found, "the two do not speak the same protocol", "install one version"
        )
    return problem("rendezvous", found, *_reason(where, text, refused))


def _reason(where: str, text: str, refused: str) -> tuple[str, str]:
    """Why a connection to the rendezvous fails, and what to do."""
    port = where.rpartition(":")[2]
    if refused:
        return (
            "rank 0 serves the rendezvous on an address of its own host",
            f"give --rdzv an address of node 0 and a free port there (`ss -ltn 'sport = :{port}'` "
            "shows who has this one)",
        )
    if "refused" in text or "nobody listens" in text:
        return (
            "node 0 answers, and nothing listens on that port: its part of the job has not been "
            "started, has ended, or was given another port; or a firewall rejects the connection",
            f"start it there with --node-rank 0, with the same --rdzv; let port {port} through",
        )
    if "resolve" in text:
        return ("the name is not known here", "use an address, or add the name to /etc/hosts")
    if "does not answer" in text or "timed out" in text:
        return (
            "packets to it are dropped: by a firewall, because the host is down, or because the "
            "address belongs to another network",
            f"try `ping` and `nc -vz {where.rpartition(':')[0]} {port}` from here; let port {port} "
            "through",
        )
    return (
        "there is no way to it from here",
        "compare `ip route` on both hosts; give --rdzv an address in a network of all nodes",
    )
