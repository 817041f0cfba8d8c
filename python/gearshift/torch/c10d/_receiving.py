"""Messages that come: from a rank that is named, or from whichever sends first."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

from ... import _core
from ...errors import Error, MismatchError
from ._memory import Target
from ._work import Lane, Operation

ANY = -1
"""Instead of a source's rank."""
HEAD = struct.Struct("=qq")
"""Before each message: its tag, and its size in bytes."""
_AT_ONCE_BYTES = 64 << 10
"""What follows its head so soon that the receiver's own thread waits for it."""


class Receipt(Operation):
    """A receive that was asked for, and the message that it gets."""

    def __init__(
        self,
        session: _core.Session,
        tensor: Tensor,
        source: int,
        tag: int,
        timeout: float,
        note: str,
    ) -> None:
        super().__init__(self._receive, [tensor], source, note)
        self.wanted, self.tag = source, tag
        self.timeout = timeout
        self._session = session
        self._nbytes = 0
        self._message: Tensor | None = None
        self._why: Error | None = None
        self.renew()
        who = "any rank" if source == ANY else f"rank {source}"
        self._what = f"recv (from {who}, tag {tag})"
        self._ticket = session.begin_operation(self._what)

    def renew(self) -> None:
        """What has to come first is on its way."""
        self.deadline = time.monotonic() + self.timeout

    def fits(self, source: int, tag: int) -> bool:
        return self.tag == tag and self.wanted in (source, ANY)

    def get(self, source: int, nbytes: int, message: Tensor | None = None) -> Operation:
        """What it gets: `message`, or what the link brings next. To be performed."""
        self._source, self._nbytes, self._message = source, nbytes, message
        return self

    def fail(self, why: Error) -> None:
        self._why = why
        self.perform()

    def time_out(self) -> None:
        """Nothing has come, which the others' doings may explain."""
        try:
            text = f"{self._what}: no such message within {self.timeout:g} s"
            self._session.time_out(self.wanted, text)
        except Error as error:
            self.fail(error)

    def _receive(self) -> None:
        self._session.end_operation(self._ticket)
        if self._why is not None:
            raise self._why
        tensor, source, size = self._tensors[0], self._source, self._nbytes
        if size != tensor.nbytes:
            if self._message is None:  # taken off the link, so that later messages are found
                _next_message(self._session, source, size, self.timeout)
            raise MismatchError(
                f"recv: rank {source} sent {size} bytes with tag {self.tag}, the tensor has "
                f"{tensor.nbytes}",
                rank=source,
            )
        target = Target(tensor)
        if self._message is None:
            self._session.recv(target.flat.data_ptr(), size, source, self.timeout)
        else:
            target.flat.view(-1).view(torch.uint8).copy_(self._message)
            self._message = None
        target.finish()

    def _announce(self, ended: torch.futures.Future[None]) -> None:
        # A callback may wait for another message, which the thread that is here has to receive.
        threading.Thread(target=ended.set_result, args=(None,), daemon=True).start()


class Receiver:
    """A thread that gives each message that comes to the receive that was first to ask for it.

    All state is that thread's, and others leave it notes. The head of a message is expected from
    each rank that somebody waits for, and tells what follows: it is received into the tensor that
    it is for, or, where a message behind it is waited for, kept. Long ones are received by a thread
    for each rank, beside each other.

    Args:
        note: for errors, as operations have it.

    Thread-safety: `receive` and `close`.
    """

    def __init__(self, session: _core.Session, name: str, note: str) -> None:
        self._session = session
        self._name = name
        self._error_note = note
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._why_closed = ""
        self._notes: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._closing = False
        self._waiting: list[Receipt] = []
        """In the order in which they were asked for."""
        self._expected: set[int] = set()
        """Ranks whose next head is expected."""
        self._busy: set[int] = set()
        """Ranks from which a message is being received."""
        self._heads: dict[int, tuple[int, int]] = {}
        """By rank, as they came: of messages that nobody has asked for, and that are not kept."""
        self._kept: list[tuple[int, int, Tensor]] = []
        """Source, tag and contents."""
        self._gone: set[int] = set()
        """Ranks that have left."""
        self._lanes: dict[int, Lane] = {}

    def receive(self, tensor: Tensor, source: int, tag: int, timeout: float) -> Operation:
        """The first message from `source`, or ANY, with this tag that no earlier receive gets."""
        with self._lock:
            if self._why_closed:
                raise Error(self._why_closed, code="closed")
            if self._thread is None:
                name = f"gearshift group {self._name} from others"
                thread = threading.Thread(target=self._loop, name=name, daemon=True)
                thread.start()
                self._thread = thread
            receipt = Receipt(self._session, tensor, source, tag, timeout, self._error_note)
            self._note(partial(self._ask, receipt))
        return receipt

    def close(self, why: str) -> None:
        """No more of them; those that wait go on until the session ends."""
        with self._lock:
            if self._why_closed:
                return
            self._why_closed = why
            if self._thread is not None:
                self._note(self._end)

    def _note(self, note: Callable[[], None]) -> None:
        self._notes.put(note)
        self._session.wake()

    def _end(self) -> None:
        self._closing = True

    def _loop(self) -> None:
        with torch.no_grad():
            while not (self._closing and not self._waiting and not self._busy):
                source = self._session.next_arrival(self._patience())
                if source is not None:
                    self._take_head(source)
                while (note := self._next_note()) is not None:
                    note()
                self._end_late_ones()
        for lane in self._lanes.values():
            lane.close()

    def _next_note(self) -> Callable[[], None] | None:
        try:
            return self._notes.get_nowait()
        except Empty:
            return None

    def _patience(self) -> float | None:
        """Seconds until the first of those that wait has waited long enough."""
        ends = [r.deadline for r in self._waiting if r.wanted not in self._busy]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for receipt in list(self._waiting):
            # One that is behind a message under way cannot come yet.
            if receipt.deadline <= now and receipt.wanted not in self._busy:
                self._waiting.remove(receipt)
                # It takes a while to learn what the others do.
                threading.Thread(target=receipt.time_out, daemon=True).start()

    def _ask(self, receipt: Receipt) -> None:
        """Somebody asks for a message: one that is here, or one that is to come."""
        for i, (source, tag, message) in enumerate(self._kept):
            if receipt.fits(source, tag):
                del self._kept[i]
                receipt.get(source, message.numel(), message).perform()
                return
        for source, (tag, nbytes) in self._heads.items():
            if receipt.fits(source, tag):
                del self._heads[source]
                self._receive(source, nbytes, receipt.get(source, nbytes).perform)
                return
        self._waiting.append(receipt)
        if receipt.wanted != ANY:
            self._look_for(receipt.wanted)
            return
        others = set(range(self._session.world_size)) - {self._session.rank}
        for source in others - self._gone or others:  # those who left tell why nothing comes
            self._look_for(source)

    def _look_for(self, source: int) -> None:
        """See to it that the next message from a rank comes, if somebody waits for one."""
        if source in self._busy or source in self._expected:
            return
        waits = next((r for r in self._waiting if r.wanted in (source, ANY)), None)
        if waits is None:
            return
        if source in self._heads:
            tag, nbytes = self._heads.pop(source)
            keep = partial(self._keep, source, tag, nbytes, waits.timeout)
            self._receive(source, nbytes, keep)
        else:
            self._expected.add(source)
            self._session.expect(source, HEAD.size)

    def _take_head(self, source: int) -> None:
        self._expected.discard(source)
        try:
            data = self._session.take(source)
        except Error as error:
            self._fail(source, error)
            return
        tag, nbytes = HEAD.unpack(data)
        receipt = self._first_for(source, tag)
        if receipt is not None:
            self._receive(source, nbytes, receipt.get(source, nbytes).perform)
        else:
            self._heads[source] = tag, nbytes
            self._look_for(source)

    def _first_for(self, source: int, tag: int) -> Receipt | None:
        """Whoever waits longest for such a message. Waits no longer."""
        receipt = next((r for r in self._waiting if r.fits(source, tag)), None)
        if receipt is not None:
            self._waiting.remove(receipt)
        return receipt

    def _receive(self, source: int, nbytes: int, receive: Callable[[], None]) -> None:
        """Have the message that follows a head received."""
        self._busy.add(source)

        def run() -> None:
            receive()
            self._note(partial(self._received, source))

        if nbytes > _AT_ONCE_BYTES:
            if source not in self._lanes:
                self._lanes[source] = Lane(f"gearshift group {self._name} from {source}")
            with contextlib.suppress(RuntimeError):  # there may be no thread to have
                self._lanes[source].submit(Operation(run, []))
                return
        run()

    def _received(self, source: int) -> None:
        self._busy.discard(source)
        for receipt in self._waiting:
            if receipt.wanted == source:
                receipt.renew()
        self._look_for(source)

    def _keep(self, source: int, tag: int, nbytes: int, timeout: float) -> None:
        """Receive a message that nobody waits for."""
        try:
            message = _next_message(self._session, source, nbytes, timeout)
        except RuntimeError:  # or there is no memory
            return  # the link is of no use, as who looks for the next message will find
        self._notes.put(partial(self._have, source, tag, message))

    def _have(self, source: int, tag: int, message: Tensor) -> None:
        receipt = self._first_for(source, tag)
        if receipt is not None:
            receipt.get(source, message.numel(), message).perform()
        else:
            self._kept.append((source, tag, message))

    def _fail(self, source: int, error: Error) -> None:
        """Nothing comes from this rank any more."""
        others = self._session.world_size - 1
        if error.code == "closed":
            self._gone.add(source)
        over = error.code != "closed" or len(self._gone) == others
        for receipt in list(self._waiting):
            if receipt.wanted == source or (receipt.wanted == ANY and over):
                self._waiting.remove(receipt)
                receipt.fail(error)


def _next_message(session: _core.Session, source: int, nbytes: int, timeout: float) -> Tensor:
    message = torch.empty(nbytes, dtype=torch.uint8)
    session.recv(message.data_ptr(), nbytes, source, timeout)
    return message
