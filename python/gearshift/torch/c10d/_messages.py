"""Messages between two ranks, told apart by tags."""

from __future__ import annotations

import threading
import time

import torch
from torch import Tensor

from ... import _core
from ...errors import InvalidArgument
from ._memory import checked, readable
from ._receiving import ANY, HEAD, Receiver
from ._work import Lane, Operation


class Messages:
    """All messages of one process group: a thread for each rank to which some are sent.

    Args:
        note: for errors, as operations have it.

    Thread-safety: all methods.
    """

    def __init__(self, session: _core.Session, name: str, note: str) -> None:
        self._session = session
        self._name = name
        self._note = note
        self._lock = threading.Lock()
        self._lanes: dict[int, Lane] = {}
        self._receiver = Receiver(session, name, note)
        self._closed = ""

    def send(self, tensor: Tensor, to: int, tag: int, timeout: float) -> Operation:
        self._check(to)

        def run() -> None:
            source = readable(tensor)
            head = torch.frombuffer(bytearray(HEAD.pack(tag, source.nbytes)), dtype=torch.uint8)
            self._session.send(head.data_ptr(), head.nbytes, to, timeout)
            self._session.send(source.data_ptr(), source.nbytes, to, timeout)

        return self._lane(to).submit(Operation(run, [tensor], note=self._note))

    def recv(self, tensor: Tensor, source: int, tag: int, timeout: float) -> Operation:
        self._check(source)
        checked(tensor)
        return self._receiver.receive(tensor, source, tag, timeout)

    def recv_any(self, tensor: Tensor, tag: int, timeout: float) -> Operation:
        if self._session.world_size == 1:
            raise InvalidArgument("recv: this group of one has no other rank")
        checked(tensor)
        return self._receiver.receive(tensor, ANY, tag, timeout)

    def close(self, why: str = "this process group was destroyed") -> None:
        with self._lock:
            self._closed = why
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.close(why)
        self._receiver.close(why)

    def join_senders(self, deadline: float) -> bool:
        """Wait until all is sent, after `close`. Whether it is."""
        with self._lock:
            lanes = list(self._lanes.values())
        return all(lane.join(max(0.0, deadline - time.monotonic())) for lane in lanes)

    def _lane(self, peer: int) -> Lane:
        with self._lock:
            lane = self._lanes.get(peer)
            if lane is None:
                lane = Lane(f"gearshift group {self._name} to {peer}")
                self._lanes[peer] = lane
                if self._closed:
                    lane.close(self._closed)
            return lane

    def _check(self, peer: int) -> None:
        if not 0 <= peer < self._session.world_size or peer == self._session.rank:
            raise InvalidArgument(
                f"rank {peer} is no other rank of this group of {self._session.world_size}"
            )


def single(tensors: list[Tensor], what: str) -> Tensor:
    """The tensor of a message, as torch passes it."""
    if len(tensors) != 1:
        raise InvalidArgument(f"{what} takes one tensor, not {len(tensors)}")
    return tensors[0]
