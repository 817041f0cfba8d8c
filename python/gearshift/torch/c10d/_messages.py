"""Messages between two ranks, told apart by tags."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque

import torch
from torch import Tensor

from ... import _core
from ...errors import InvalidArgument, MismatchError
from ._memory import Target, readable
from ._work import Lane, Operation

_HEAD_WORDS = 2
"""Before each message: its tag, and its size in bytes."""


class _Incoming:
    """What comes from one rank: messages in the order of their sending, wanted by tag."""

    def __init__(self, session: _core.Session, source: int) -> None:
        self._session = session
        self._source = source
        self._early: defaultdict[int, deque[Tensor]] = defaultdict(deque)

    def receive(self, target: Tensor, tag: int, timeout: float) -> None:
        """Into contiguous memory: the first message with this tag that nobody has received."""
        early = self._early.get(tag)
        if early:
            message = early.popleft()
            self._check(message.numel(), target, tag)
            target.view(-1).view(torch.uint8).copy_(message)
            return
        while True:
            head = torch.empty(_HEAD_WORDS, dtype=torch.int64)
            self._session.recv(head.data_ptr(), head.nbytes, self._source, timeout)
            found, nbytes = head.tolist()
            if found == tag:
                break
            message = torch.empty(nbytes, dtype=torch.uint8)
            self._session.recv(message.data_ptr(), nbytes, self._source, timeout)
            self._early[found].append(message)
        if nbytes != target.nbytes:  # taken off the link, so that later messages are found
            message = torch.empty(nbytes, dtype=torch.uint8)
            self._session.recv(message.data_ptr(), nbytes, self._source, timeout)
        self._check(nbytes, target, tag)
        self._session.recv(target.data_ptr(), nbytes, self._source, timeout)

    def _check(self, nbytes: int, target: Tensor, tag: int) -> None:
        if nbytes != target.nbytes:
            raise MismatchError(
                f"recv: rank {self._source} sent {nbytes} bytes with tag {tag}, the tensor has "
                f"{target.nbytes}",
                rank=self._source,
            )


class Messages:
    """All messages of one process group: a thread for each rank and direction that is used.

    Thread-safety: all methods.
    """

    def __init__(self, session: _core.Session, name: str) -> None:
        self._session = session
        self._name = name
        self._lock = threading.Lock()
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._incoming: dict[int, _Incoming] = {}
        self._closed = ""

    def send(self, tensor: Tensor, to: int, tag: int, timeout: float) -> Operation:
        self._check(to)

        def run() -> None:
            source = readable(tensor)
            head = torch.tensor([tag, source.nbytes], dtype=torch.int64)
            self._session.send(head.data_ptr(), head.nbytes, to, timeout)
            self._session.send(source.data_ptr(), source.nbytes, to, timeout)

        return self._lane("to", to).submit(Operation(run, [tensor]))

    def recv(self, tensor: Tensor, source: int, tag: int, timeout: float) -> Operation:
        self._check(source)
        with self._lock:
            incoming = self._incoming.setdefault(source, _Incoming(self._session, source))

        def run() -> None:
            target = Target(tensor)
            incoming.receive(target.flat, tag, timeout)
            target.finish()

        return self._lane("from", source).submit(Operation(run, [tensor], source))

    def close(self, why: str = "this process group was destroyed") -> None:
        with self._lock:
            self._closed = why
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.close(why)

    def join_senders(self, deadline: float) -> bool:
        """Wait until all is sent, after `close`. Whether it is."""
        with self._lock:
            lanes = [lane for (direction, _), lane in self._lanes.items() if direction == "to"]
        return all(lane.join(max(0.0, deadline - time.monotonic())) for lane in lanes)

    def _lane(self, direction: str, peer: int) -> Lane:
        with self._lock:
            lane = self._lanes.get((direction, peer))
            if lane is None:
                lane = Lane(f"gearshift group {self._name} {direction} {peer}")
                self._lanes[(direction, peer)] = lane
                if self._closed:
                    lane.close(self._closed)
            return lane

    def _check(self, peer: int) -> None:
        if not 0 <= peer < self._session.world_size or peer == self._session.rank:
            raise InvalidArgument(
                f"rank {peer} is no other rank of this group of {self._session.world_size}"
            )
