"""The process group: what torch.distributed calls, as operations of a gearshift session."""

# The methods have one of the signatures that torch declares for them: the one it calls.
# mypy: disable-error-code="override, assignment"

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ...errors import Error, InvalidArgument
from ._ending import ABORTED, Farewell, Watch, end_with_process, forget
from ._meet import meet
from ._memory import Target, checked, readable, same_bytes
from ._messages import Messages, single
from ._reduce import Reduction
from ._work import Lane, Operation, note_on

_PAUSE = 0.02
"""Seconds from one attempt to leave a group to the next."""
_OF_PARENT = "this process group is one of the process that forked this one"


def create(options: Any, _backend_options: Any = None) -> GearshiftProcessGroup:
    """Called by torch.distributed for each process group. Collective over its members."""
    # There are none where all are members.
    members = list(options.global_ranks_in_group) or list(range(options.group_size))
    return GearshiftProcessGroup(
        options.store, options.group_id, options.group_rank, members, options.timeout
    )


class GearshiftProcessGroup(ProcessGroup):
    """Operations of one group of ranks, in the order in which they are asked for.

    Each asynchronous one returns at once; a thread of the group's does them one after another,
    messages (`send`, `recv`) beside them. Others are done by the caller, where nothing is under
    way. Errors come from the handle's `wait`: those of :mod:`gearshift.errors`. After
    :class:`gearshift.PeerLost` or TimeoutError the group is unusable.
    """

    def __init__(
        self, store: Any, name: str, rank: int, members: list[int], timeout: timedelta
    ) -> None:
        """`members` are ranks of the whole job, in the order of ranks of this group."""
        super().__init__(rank, len(members))  # type: ignore[call-arg]
        self._name = name = f"{name} {members}"
        self.members = members
        self._description = "undefined"
        self._timeout = timeout.total_seconds()
        everyone = dist.group.WORLD
        watch = Watch(members, everyone if isinstance(everyone, GearshiftProcessGroup) else None)
        self._meeting = meet(store, name, rank, self._timeout, watch)
        self._session = self._meeting.session
        self._lane = Lane(f"gearshift group {name}")
        self._note = note_on(members)
        self._messages = Messages(self._session, name, self._note)
        self._closing = threading.Lock()
        self._closed = self._of_parent = False
        if threading.current_thread() is threading.main_thread():
            self._session.watch_signals()
        end_with_process(self)

    # What torch asks backends and groups for

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]

    def _get_backend(self, device: torch.device) -> GearshiftProcessGroup:
        return self

    def getBackendName(self) -> str:  # noqa: N802
        return "gearshift"

    def getGroupName(self) -> str:  # noqa: N802
        return self._name

    def setGroupName(self, name: str) -> None:  # noqa: N802
        self._name = name

    def getGroupDesc(self) -> str:  # noqa: N802
        return self._description

    def setGroupDesc(self, description: str) -> None:  # noqa: N802
        self._description = description

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout = timeout.total_seconds()

    # Reductions

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Operation:
        return self._all_reduce(tensors, opts)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> Operation:
        return self._all_reduce(tensors, opts)

    def _all_reduce(self, tensors: list[Tensor], opts: Any) -> Operation:
        op, timeout, background = _op(opts), self._limit(opts), _asynchronous(opts)
        reductions = [Reduction(t.dtype, op) for t in tensors]

        def run() -> None:
            for tensor, reduction in zip(tensors, reductions, strict=True):
                target = Target(tensor, fill=True)
                reduction.all_reduce(self._session, target.flat, timeout, background)
                target.finish()

        return self._do(run, tensors, opts)

    def reduce(self, tensors: list[Tensor], opts: Any = None) -> Operation:
        op, timeout = _op(opts), self._limit(opts)
        root = opts.rootRank if opts is not None else 0
        reductions = [Reduction(t.dtype, op) for t in tensors]

        def run() -> None:
            for tensor, reduction in zip(tensors, reductions, strict=True):
                if self._session.rank == root:
                    target = Target(tensor, fill=True)
                    reduction.all_reduce(self._session, target.flat, timeout)
                    target.finish()
                else:
                    reduction.all_reduce(self._session, readable(tensor).clone(), timeout)

        return self._do(run, tensors, opts)

    def reduce_scatter(
        self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None
    ) -> Operation:
        op, timeout = _op(opts), self._limit(opts)
        for out, parts in zip(outputs, inputs, strict=True):
            self._expect(parts, "reduce_scatter", "input")
            if parts[self._session.rank].shape.numel() != out.numel():
                raise InvalidArgument("reduce_scatter: the output is not as large as its part")

        def run() -> None:
            for out, parts in zip(outputs, inputs, strict=True):
                reduction = Reduction(out.dtype, op)
                target = Target(out)
                flat = [readable(part).view(-1) for part in parts]
                if same_bytes([out, *parts], "reduce_scatter"):
                    scratch = torch.cat(flat)
                    reduction.reduce_scatter(self._session, scratch, target.flat, timeout)
                else:
                    whole = torch.cat(flat)
                    reduction.all_reduce(self._session, whole, timeout)
                    part = whole.split([f.numel() for f in flat])[self._session.rank]
                    target.flat.copy_(part.view(out.shape))
                target.finish()

        return self._do(run, outputs, opts)

    def _reduce_scatter_base(self, output: Tensor, input: Tensor, opts: Any = None) -> Operation:
        return self.reduce_scatter_tensor_coalesced([output], [input], opts)

    def reduce_scatter_tensor_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> Operation:
        op, timeout = _op(opts), self._limit(opts)
        for out, whole in zip(outputs, inputs, strict=True):
            self._expect_multiple(whole, out, "reduce_scatter")
        reductions = [Reduction(t.dtype, op) for t in outputs]

        def run() -> None:
            for out, whole, reduction in zip(outputs, inputs, reductions, strict=True):
                target = Target(out)
                scratch = readable(whole).clone()
                reduction.reduce_scatter(self._session, scratch, target.flat, timeout)
                target.finish()

        return self._do(run, outputs, opts)

    # Collectives that move

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Operation:
        timeout = self._limit(opts)
        root = opts.rootRank if opts is not None else 0

        def run() -> None:
            for tensor in tensors:
                target = Target(tensor, fill=self._session.rank == root)
                self._broadcast(target.flat, root, timeout)
                target.finish()

        return self._do(run, tensors, opts)

    def allgather(
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> Operation:
        timeout = self._limit(opts)
        for parts in outputs:
            self._expect(parts, "all_gather", "output")

        def run() -> None:
            for parts, own in zip(outputs, inputs, strict=True):
                self._all_gather(parts, own, timeout)

        return self._do(run, [part for parts in outputs for part in parts], opts)

    def allgather_coalesced(
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> Operation:
        """`outputs[r]` takes all tensors of rank r."""
        return self.allgather([list(parts) for parts in zip(*outputs, strict=True)], inputs, opts)

    def _all_gather(self, parts: list[Tensor], own: Tensor, timeout: float) -> None:
        rank = self._session.rank
        if parts[rank].nbytes != own.nbytes:
            raise InvalidArgument("all_gather: this rank's output is not as large as its input")
        if not same_bytes([own, *parts], "all_gather"):
            for root, part in enumerate(parts):
                target = Target(part)
                if root == rank:
                    target.flat.copy_(own)
                self._broadcast(target.flat, root, timeout)
                target.finish()
            return
        whole = torch.empty((len(parts), own.numel()), dtype=own.dtype)
        whole[rank].copy_(own.detach().reshape(-1))
        self._session.all_gather(whole.data_ptr(), whole.nbytes, timeout)
        for part, row in zip(parts, whole, strict=True):
            part.detach().copy_(row.view(part.shape))

    def _allgather_base(self, output: Tensor, input: Tensor, opts: Any = None) -> Operation:
        return self.allgather_into_tensor_coalesced([output], [input], opts)

    def allgather_into_tensor_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> Operation:
        timeout = self._limit(opts)
        for whole, own in zip(outputs, inputs, strict=True):
            self._expect_multiple(whole, own, "all_gather")

        def run() -> None:
            for whole, own in zip(outputs, inputs, strict=True):
                target = Target(whole)
                row = target.flat.view(-1)[self._session.rank * own.numel() :][: own.numel()]
                mine = readable(own)
                if row.data_ptr() != mine.data_ptr():
                    row.copy_(mine.view(-1))
                self._session.all_gather(target.flat.data_ptr(), target.flat.nbytes, timeout)
                target.finish()

        return self._do(run, outputs, opts)

    def gather(
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> Operation:
        timeout = self._limit(opts)
        root = opts.rootRank if opts is not None else 0
        rooted = self._session.rank == root
        if rooted:
            for parts, own in zip(outputs, inputs, strict=True):
                self._expect(parts, "gather", "output")
                if not same_bytes([own, *parts], "gather"):
                    raise InvalidArgument("gather: all outputs must be as large as the input")

        def run() -> None:
            for i, own in enumerate(inputs):
                mine = readable(own)
                size = len(outputs[i]) if rooted else 0
                whole = torch.empty((size, own.numel()), dtype=own.dtype)
                self._session.gather(mine.data_ptr(), mine.nbytes, whole.data_ptr(), root, timeout)
                for part, row in zip(outputs[i] if rooted else [], whole, strict=True):
                    part.detach().copy_(row.view(part.shape))

        return self._do(run, [part for parts in outputs for part in parts], opts)

    def scatter(
        self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None
    ) -> Operation:
        timeout = self._limit(opts)
        root = opts.rootRank if opts is not None else 0
        rooted = self._session.rank == root
        if rooted:
            for out, parts in zip(outputs, inputs, strict=True):
                self._expect(parts, "scatter", "input")
                if not same_bytes([out, *parts], "scatter"):
                    raise InvalidArgument("scatter: all inputs must be as large as the output")

        def run() -> None:
            for i, out in enumerate(outputs):
                target = Target(out)
                whole = torch.cat([readable(t).view(-1) for t in inputs[i]] if rooted else [_EMPTY])
                flat = target.flat
                self._session.scatter(whole.data_ptr(), flat.data_ptr(), flat.nbytes, root, timeout)
                target.finish()

        return self._do(run, outputs, opts)

    def alltoall_base(
        self,
        output: Tensor,
        input: Tensor,
        output_split_sizes: list[int],
        input_split_sizes: list[int],
        opts: Any = None,
    ) -> Operation:
        timeout = self._limit(opts)
        taken = self._splits(output, list(output_split_sizes), "output")
        given = self._splits(input, list(input_split_sizes), "input")
        even = not (output_split_sizes or input_split_sizes)
        if not same_bytes([input, output], "all_to_all") and even:
            raise InvalidArgument("all_to_all: the output is not as large as the input")

        def run() -> None:
            target, source = Target(output), readable(input)
            if even:
                self._session.all_to_all(
                    source.data_ptr(), target.flat.data_ptr(), source.nbytes, timeout
                )
            else:
                self._session.all_to_all_v(
                    source.data_ptr(), given, target.flat.data_ptr(), taken, timeout
                )
            target.finish()

        return self._do(run, [output], opts)

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Operation:
        timeout = self._limit(opts)
        self._expect(outputs, "all_to_all", "output")
        self._expect(inputs, "all_to_all", "input")

        def run() -> None:
            source = torch.cat([readable(t).view(-1).view(torch.uint8) for t in inputs])
            taken = [t.nbytes for t in outputs]
            whole = torch.empty(sum(taken), dtype=torch.uint8)
            self._session.all_to_all_v(
                source.data_ptr(), [t.nbytes for t in inputs], whole.data_ptr(), taken, timeout
            )
            for out, part in zip(outputs, whole.split(taken), strict=True):
                out.detach().copy_(part.view(out.dtype).view(out.shape))

        return self._do(run, outputs, opts)

    def barrier(self, opts: Any = None) -> Operation:
        timeout = self._limit(opts)
        return self._do(lambda: self._session.barrier(timeout), [], opts)

    # Messages

    def send(self, tensors: list[Tensor], dst: int, tag: int = 0) -> Operation:
        return self._messages.send(single(tensors, "send"), dst, tag, self._timeout)

    def recv(self, tensors: list[Tensor], src: int, tag: int = 0) -> Operation:
        return self._messages.recv(single(tensors, "recv"), src, tag, self._timeout)

    def recv_anysource(self, tensors: list[Tensor], tag: int = 0) -> Operation:
        return self._messages.recv_any(single(tensors, "recv"), tag, self._timeout)

    # The names that torch gives some of them from 2.13 on

    all_gather_single = _allgather_base
    all_gather_single_coalesced = allgather_into_tensor_coalesced
    reduce_scatter_single = _reduce_scatter_base
    reduce_scatter_single_coalesced = reduce_scatter_tensor_coalesced
    all_to_all_single = alltoall_base

    # Life

    def shutdown(self) -> None:
        """Leave the group in an orderly way, once its operations are done, but for messages that
        nobody has sent yet. Idempotent."""
        if self.begin_to_leave():
            while not self.leave(_PAUSE):
                pass

    def begin_to_leave(self) -> bool:
        """Take no more operations. False: that was so before."""
        with self._closing:
            if self._closed:
                return False
            self._closed = True
        forget(self)
        self._lane.close()
        self._messages.close()
        self._farewell = Farewell(self._session, self._lane, self._messages)
        return True

    def leave(self, seconds: float) -> bool:
        """The rest of `shutdown`, if it can be done so soon, or has to be. To be called again and
        again after `begin_to_leave`, until it is True."""
        left = True
        try:
            left = self._farewell.attempt(seconds)
        finally:
            if left:
                self._session.unwatch_signals()
        return left

    def give_up(self, reason: str) -> None:
        """End a `shutdown` that is under way, and tell the others why."""
        self._session.fail(reason)

    def abort(self) -> None:
        """End all operations with an error, here and on the other ranks."""
        self.fail(ABORTED)

    def fail(self, reason: str) -> None:
        """Leave the group at once, and tell the others why. Idempotent."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        forget(self)
        self._session.fail(reason.encode(errors="backslashreplace").decode())
        self._session.unwatch_signals()
        self._lane.close(reason)
        self._messages.close(reason)

    def failure(self) -> Error | None:
        """What has ended this group, other than an orderly end on all ranks."""
        if self._of_parent:
            return Error(_OF_PARENT, code="closed")
        try:
            self._session.check()
        except Error as error:
            return error
        return None

    def has_left(self, rank: int) -> bool:
        """Whether a member, by its rank in the whole job, is known to have left this group."""
        return self._session.has_left(self.members.index(rank))

    def leave_to_parent(self) -> None:
        """Called in a forked process: the session, with all its threads, is its parent's."""
        self._closing = threading.Lock()  # another thread of the parent's may have held it
        self._closed = self._of_parent = True
        self._lane = Lane(self._name)
        self._messages = Messages(self._session, self._name, self._note)
        for part in (self._lane, self._messages):
            part.close(_OF_PARENT)

    def _do(self, run: Callable[[], None], tensors: list[Tensor], opts: Any) -> Operation:
        for tensor in tensors:
            checked(tensor)
        operation = Operation(run, tensors, note=self._note)
        if _asynchronous(opts):
            return self._lane.submit(operation)
        return self._lane.perform(operation)

    def _limit(self, opts: Any) -> float:
        """Seconds that an operation may take without progress."""
        own = getattr(opts, "timeout", None)
        seconds = own.total_seconds() if own is not None else 0.0
        return float(seconds) if seconds > 0 else self._timeout

    def _broadcast(self, flat: Tensor, root: int, timeout: float) -> None:
        self._session.broadcast(flat.data_ptr(), flat.nbytes, root, timeout)

    def _expect(self, tensors: list[Tensor], what: str, kind: str) -> None:
        if len(tensors) != self._session.world_size:
            raise InvalidArgument(
                f"{what}: {len(tensors)} {kind} tensors for {self._session.world_size} ranks"
            )

    def _expect_multiple(self, whole: Tensor, part: Tensor, what: str) -> None:
        size = self._session.world_size
        if whole.dtype != part.dtype or whole.numel() != part.numel() * size:
            raise InvalidArgument(
                f"{what}: {whole.numel()} elements of {whole.dtype} are not {size} times "
                f"{part.numel()} of {part.dtype}"
            )

    def _splits(self, tensor: Tensor, splits: list[int], kind: str) -> list[int]:
        """Bytes for each rank, of a tensor that is cut along its first dimension."""
        size = self._session.world_size
        rows = tensor.shape[0] if tensor.dim() > 0 else 1
        if not splits:
            if rows % size != 0:
                raise InvalidArgument(f"all_to_all: {rows} rows of {kind} for {size} ranks")
            splits = [rows // size] * size
        if len(splits) != size or sum(splits) != rows or min(splits) < 0:
            raise InvalidArgument(
                f"all_to_all: {kind} splits {splits} do not cut {rows} rows for {size} ranks"
            )
        row_bytes = tensor.nbytes // rows if rows else 0
        return [split * row_bytes for split in splits]


_EMPTY = torch.empty(0)


def _op(opts: Any) -> Any:
    return opts.reduceOp if opts is not None else dist.ReduceOp.SUM


def _asynchronous(opts: Any) -> bool:
    return bool(getattr(opts, "asyncOp", True))
