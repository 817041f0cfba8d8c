"""How fast the links between hosts are, in each direction, as a session sees them.

As the core's own survey (include/gearshift/collectives/survey.h) does, pairs of hosts measure in
the rounds of a tournament, so that no host is in two measurements at a time. Unlike it, each
direction is measured by itself, and what an earlier job has found is not used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_PINGS = 40
_FIRST_BYTES = 64 << 10
_MOST_BYTES = 16 << 20
_ENOUGH_SECONDS = 0.02
_REPEATS = 3
_MOST_ROUNDS = 32
_END, _PING, _TAKE, _SEND = range(4)


@dataclass(frozen=True)
class Link:
    """Between two ranks. Seconds; bytes per second."""

    a: int
    b: int
    transport: str
    remote: bool
    """Between two hosts, as the session sees it."""
    latency: float
    """One way."""
    there: float
    """From `a` to `b`."""
    back: float
    clock: float
    """How far the clock of `b` is before that of `a`."""
    surveyed: float
    """What the session takes for the bandwidth."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rounds(hosts: int) -> list[list[tuple[int, int]]]:
    """Each host against each other one, in rounds of pairs that have no host in common."""
    seats: list[int | None] = [*range(hosts)]
    if hosts % 2:
        seats.append(None)
    made = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        pairs = zip(seats[:half], reversed(seats[half:]), strict=True)
        made.append([(min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return made[:_MOST_ROUNDS]


def measure(rank: int, links: Sequence[Sequence[Any]]) -> list[Link]:
    """The links that this rank measures, of the session that there is. Collective.

    Args:
        rank: this process's.
        links: as the core's session gives them, one for each rank.
    """
    import gearshift as gs

    members: dict[int, list[int]] = {}
    for other, link in enumerate(links):
        members.setdefault(int(link[1]), []).append(other)
    found = []
    local = [(ranks[0], ranks[1]) for ranks in members.values() if len(ranks) > 1]
    leaders = [ranks[0] for ranks in members.values()]
    between = [[(leaders[a], leaders[b]) for a, b in pairs] for pairs in rounds(len(leaders))]
    for pairs in [local, *between]:
        gs.barrier()
        for a, b in pairs:
            if rank == a:
                found.append(_drive(a, b, links))
            elif rank == b:
                _follow(a)
    gs.barrier()
    return found


def _drive(a: int, b: int, links: Sequence[Sequence[Any]]) -> Link:
    transport, host, _, surveyed = links[b]
    latency, least, clock = _ping(b)
    there = _bandwidth(b, _TAKE, least)
    back = _bandwidth(b, _SEND, least)
    _order(b, _END, 0)
    remote = host != links[a][1]
    return Link(a, b, str(transport), remote, latency, there, back, clock, float(surveyed))


def _follow(leader: int) -> None:
    import gearshift as gs

    order = np.empty(2, np.int64)
    short = np.zeros(1)
    while True:
        gs.recv(order, leader)
        kind, size = int(order[0]), int(order[1])
        if kind == _END:
            return
        if kind == _PING:
            short[0] = time.time()
            gs.send(short, leader)
            continue
        data = np.ones(size, np.uint8)  # room before the clock
        gs.send(short, leader)
        if kind == _TAKE:
            gs.recv(data, leader)
            gs.send(short, leader)
        else:
            gs.recv(short, leader)
            gs.send(data, leader)


def _order(to: int, kind: int, size: int) -> None:
    import gearshift as gs

    gs.send(np.array([kind, size], np.int64), to)


def _ping(to: int) -> tuple[float, float, float]:
    """Seconds one way, the median and the least; how far the other's clock is before this one's."""
    import gearshift as gs

    answer = np.empty(1)
    turns = []
    for _ in range(_PINGS):
        begin = time.time()
        _order(to, _PING, 0)
        gs.recv(answer, to)
        end = time.time()
        turns.append((end - begin, float(answer[0]) - (begin + end) / 2))
    turns.sort()
    return turns[len(turns) // 2][0] / 2, turns[0][0] / 2, turns[0][1]


def _bandwidth(to: int, kind: int, latency: float) -> float:
    """Of transfers that grow until all take long enough; the fastest of the last size's.

    Without the latency, of which the least counts: busy processors add to it, and taking off what
    they do not add to the transfer would make the link faster than it is.
    """
    size = _FIRST_BYTES
    while True:
        best = _transfer(to, kind, size)
        if best >= _ENOUGH_SECONDS or size >= _MOST_BYTES:
            # A single one may have been disturbed.
            best = min(best, *(_transfer(to, kind, size) for _ in range(_REPEATS)))
            if best >= _ENOUGH_SECONDS or size >= _MOST_BYTES:
                return size / max(best - 2 * latency, best / 10)
        size *= 4


def _transfer(to: int, kind: int, size: int) -> float:
    """Seconds, with one message back or forth beside it."""
    import gearshift as gs

    short = np.zeros(1)
    data = np.ones(size, np.uint8)
    _order(to, kind, size)
    gs.recv(short, to)
    begin = time.perf_counter()
    if kind == _TAKE:
        gs.send(data, to)
        gs.recv(short, to)
    else:
        gs.send(short, to)
        gs.recv(data, to)
    return time.perf_counter() - begin
