"""What messages do over the gearshift backend, one function a case, run by c10d_cases.py.

Gloo, in a group of the same ranks, says what comes of the same calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

import gearshift as gs

CASES: list[Callable[[], None]] = []
LARGE = 3_000_001
"""Elements of more bytes than sockets hold."""


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES.append(function)
    return function


def among_several(function: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        if dist.get_world_size() > 1:
            function()

    run.__name__ = function.__name__
    return case(run)


def rank() -> int:
    return dist.get_rank()


def world() -> int:
    return dist.get_world_size()


def value(value: float, size: int = 1) -> torch.Tensor:
    return torch.full((size,), float(value))


@case
def nobody_sends_to_himself() -> None:
    group = dist.distributed_c10d._get_default_group()
    with pytest.raises(gs.InvalidArgument):
        group.send([torch.ones(1)], rank(), 0)
    if world() == 1:
        with pytest.raises(gs.InvalidArgument, match="no other rank"):
            dist.recv(torch.ones(1))


@among_several
def messages() -> None:
    after, before = (rank() + 1) % world(), (rank() - 1) % world()
    big = value(rank(), LARGE)
    into = torch.empty_like(big)
    ops = [dist.P2POp(dist.isend, big, after), dist.P2POp(dist.irecv, into, before)]
    for work in dist.batch_isend_irecv(ops):
        work.wait()
    assert torch.all(into == before)
    # In the order of tags that the receiver wants, whatever the order of sending.
    sent = [dist.isend(torch.full((2,), 10 * tag + rank()), after, tag=tag) for tag in (3, 1, 2)]
    for tag in (1, 2, 3):
        got = torch.zeros(4, dtype=torch.int64)[::2]
        assert dist.recv(got, before, tag=tag) == before
        assert got.tolist() == [10 * tag + before] * 2
    for work in sent:
        work.wait()


@among_several
def messages_of_another_size() -> None:
    """Are an error, and what comes after them is found, whether or not the source is named."""
    after, before = (rank() + 1) % world(), (rank() - 1) % world()
    sent = [dist.isend(torch.ones(k), after) for k in (3, 2, 40_000, 2)]
    for source in (before, None):
        with pytest.raises(gs.MismatchError, match=f"rank {before} sent .* bytes with tag 0"):
            dist.recv(torch.empty(1), source)
        got = torch.zeros(2)
        assert dist.recv(got, source) == before
        assert got.tolist() == [1.0, 1.0]
    for work in sent:
        work.wait()


def received_from_any(group: Any, receiver: int, size: int) -> list[tuple[int, list[float]]]:
    """Source and contents of one message from each rank, of two tags in turn; at the receiver."""
    if rank() != receiver:
        works = [
            dist.isend(value(10 * rank() + tag, size), receiver, group=group, tag=tag)
            for tag in (4, 2)
        ]
        for work in works:
            work.wait()
        return []
    found = []
    for tag in (2, 4):
        for _ in range(world() - 1):
            got = torch.zeros(size)
            found.append((dist.recv(got, group=group, tag=tag), got.tolist()))
    return sorted(found)


@among_several
def any_source_is_what_gloo_says() -> None:
    gloo = dist.new_group(backend="gloo")
    for receiver in {0, world() - 1}:
        for size in (1, 40_000):
            found = received_from_any(dist.group.WORLD, receiver, size)
            assert found == received_from_any(gloo, receiver, size)
            assert len(found) == (2 * world() - 2 if rank() == receiver else 0)
        found = received_from_any(dist.group.WORLD, receiver, 0)  # Gloo receives no empty ones
        senders = [r for r in range(world()) if r != receiver for _ in (2, 4)]
        assert found == ([(r, []) for r in senders] if rank() == receiver else [])
    dist.destroy_process_group(gloo)


@among_several
def everybody_receives_from_anybody() -> None:
    works = [
        dist.isend(value(rank(), size), to)
        for to in range(world())
        for size in (LARGE // 10, 1)
        if to != rank()
    ]
    sources = []
    for _ in range(world() - 1):
        got = torch.zeros(LARGE // 10)
        source = dist.recv(got)
        assert torch.all(got == source)
        sources.append(source)
        assert dist.recv(torch.zeros(1), source) == source
    assert sorted(sources) == [r for r in range(world()) if r != rank()]
    for work in works:
        work.wait()


@among_several
def who_asks_first_gets_it() -> None:
    if rank() == 1:
        for tag, size, number in ((8, 1, 80), (7, 40_000, 71), (7, 40_000, 72), (9, 1, 90)):
            dist.send(value(number, size), 0, tag=tag)
    if rank() != 0:
        return
    wanted = [(None, 7, 40_000), (1, 7, 40_000), (1, 9, 1), (None, 8, 1)]
    into = [torch.zeros(size) for _, _, size in wanted]
    works = [dist.irecv(t, s, tag=tag) for t, (s, tag, _) in zip(into, wanted, strict=True)]
    for work in reversed(works):
        work.wait()
        assert work._source_rank() == 1
    assert [t.unique().tolist() for t in into] == [[71.0], [72.0], [90.0], [80.0]]


@among_several
def one_that_waits_holds_up_no_other() -> None:
    """Rank 1 sends what was asked for first only when it has the answer to what came second."""
    for sizes in ((1, 1), (1, LARGE), (LARGE, 1)):
        if rank() == 1:
            dist.send(value(2, sizes[1]), 0, tag=2)
            dist.recv(torch.zeros(1), tag=3)
            dist.send(value(1, sizes[0]), 0, tag=1)
        if rank() == 0:
            first, second = torch.zeros(sizes[0]), torch.zeros(sizes[1])
            works = [dist.irecv(first, 1, tag=1), dist.irecv(second, tag=2)]
            works[1].wait()
            assert not works[0].is_completed()
            dist.send(value(3), 1, tag=3)
            works[0].wait()
            assert torch.all(first == 1)
            assert torch.all(second == 2)


@among_several
def what_was_passed_over_is_kept() -> None:
    if rank() == 1:
        for tag, size in ((5, LARGE), (5, 1), (6, 1)):
            dist.send(value(tag, size), 0, tag=tag)
    if rank() == 0:
        for source, tag, size in ((1, 6, 1), (None, 5, LARGE), (None, 5, 1)):
            got = torch.zeros(size)
            assert dist.recv(got, source, tag=tag) == 1
            assert torch.all(got == tag)


@among_several
def callbacks_that_wait_for_other_messages() -> None:
    if rank() == 1:
        for tag, size in ((1, 1), (2, 1), (3, LARGE), (4, LARGE)):
            dist.send(value(tag, size), 0, tag=tag)
    if rank() != 0:
        return

    def follow(tag: int, size: int) -> Callable[[Any], float]:
        def receive(_: Any) -> float:
            got = torch.zeros(size)
            dist.recv(got, 1, tag=tag)
            return got[0].item()

        return receive

    first = dist.irecv(torch.zeros(1), tag=1).get_future().then(follow(2, 1))
    second = dist.irecv(torch.zeros(LARGE), tag=3).get_future().then(follow(4, LARGE))
    assert (first.wait(), second.wait()) == (2.0, 4.0)


@case
def subgroups_number_their_own() -> None:
    """But a source is told by its rank in the world."""
    if world() < 3:
        return
    group = dist.new_group([1, 2])
    if rank() == 2:
        dist.send(value(5), 1, group=group)
    if rank() == 1:
        got = torch.zeros(1)
        work = dist.irecv(got, group=group)
        work.wait()
        assert (work._source_rank(), got.item()) == (1, 5.0)
        dist.send(got, 2, group=group)
    if rank() == 2:
        assert dist.recv(torch.zeros(1), group=group) == 1
    if rank() in (1, 2):
        dist.destroy_process_group(group)


@case
def any_source_outlasts_those_who_leave() -> None:
    """Until all have left."""
    if world() < 3:
        return
    group = dist.new_group([0, 1, 2])
    if rank() == 0:
        got = torch.zeros(1)
        work = dist.irecv(got, group=group)
        with pytest.raises(gs.PeerLost, match="rank 1 has already finished"):
            dist.recv(torch.zeros(1), 1, group=group)
        dist.send(got, 2)
        work.wait()
        assert (work._source_rank(), got.item()) == (2, 6.0)
        for _ in range(2):
            with pytest.raises(gs.PeerLost, match="has already finished"):
                dist.recv(got, group=group)
    if rank() == 2:
        dist.recv(torch.zeros(1), 0)
        dist.send(value(6), 0, group=group)
    if rank() in (0, 1, 2):
        dist.destroy_process_group(group)
