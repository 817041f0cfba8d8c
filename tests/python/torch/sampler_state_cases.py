"""What a sampler's state says has been trained on, in loops of many kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.epochs import SIZE, data
from gearshift_testing.resuming import Job, logged, shuffled, trained
from gearshift_testing.training import cross_entropy, make
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

import gearshift as gs
import gearshift.torch as gst

WORLDS = (1, 2, 3)


@case(WORLDS)
def what_counts_is_trained_on() -> None:
    """Not what a loader has fetched, nor what waits for a step."""
    n = gs.world_size()
    switches = ("switch(then=ps:bsp, at=2)", "switch(start=ps:bsp, then=all_reduce, at=2)")
    for workers, accumulate, strategy in (
        (0, 1, "all_reduce"),
        (2, 1, "all_reduce"),
        (0, 3, "ps:bsp"),
        *((0, 1, switch) for switch in switches),
    ):
        job = Job(strategy, workers=workers, accumulate=accumulate, size=9 * SIZE * n)
        assert trained(job) == (0, [])
        found = []
        for _ in job.steps(1):
            found.append(trained(job))
            cross_entropy(job.model, *data(1).tensors)  # a forward, to no end
        gs.barrier()
        after = trained(job)
        gst.release(job.model)
        each = accumulate * SIZE
        wanted = [(0, [[k * each] * n]) for k in range(1, 9 // accumulate + 1)]
        assert found == wanted
        assert after == (1, []), "the loop is over"


@case([2, 3])
def the_last_batches_of_an_epoch() -> None:
    """Rank 0 has a batch more; whoever has none is where the epoch ends."""
    n = gs.world_size()
    job = Job(size=2 * SIZE * n + 1)
    found = [trained(job) for _ in job.steps(1)]
    gs.barrier()
    last = (0, [[2 * SIZE + (rank == 0) for rank in range(n)]])
    middle = [(0, [[k * SIZE] * n]) for k in (1, 2)]
    gst.release(job.model)
    assert found == ([*middle, last] if gs.rank() == 0 else [middle[0], last])


@case([2])
def a_checkpoint_after_a_loop() -> None:
    """One that was left early goes on there, one that was not with the next epoch."""
    for workers, persistent in ((0, False), (2, False), (2, True)):
        job = Job(workers=workers)
        job.loader = DataLoader(
            data(job.size),
            SIZE,
            sampler=job.sampler,
            num_workers=workers,
            persistent_workers=persistent,
        )
        job.run(1, 2)
        left = trained(job)
        for _ in job.epoch():
            pass
        gs.barrier()
        whole = trained(job)
        job.sampler.set_epoch(7)
        after = trained(job)
        gst.release(job.model)
        assert left == (0, [[2 * SIZE] * 2])
        assert after == (7, [])
        if not persistent:  # else nothing tells that the loop is over
            assert whole == (1, [])


@case([2])
def a_look_at_the_data_within_an_epoch() -> None:
    job = Job()
    for k in job.steps(1):
        if k == 2:
            before = trained(job)
            with torch.no_grad():
                for x, _ in job.loader:
                    job.model(x)
            looked = trained(job)
        if k == 3:
            after = trained(job)
    gs.barrier()
    gst.release(job.model)
    assert before == looked == (0, [[2 * SIZE] * 2])
    assert after == (0, [[3 * SIZE] * 2])


@case([2])
def loops_that_fetch_ahead() -> None:
    """What was fetched and not trained on is not counted."""
    job = Job(size=4 * SIZE * 2)
    fetched, found = iter(job.loader), []
    batch = next(fetched)
    while batch is not None:
        coming = next(fetched, None)
        cross_entropy(job.model, *batch).backward()
        job.optimizer.step()
        found.append(trained(job)[1])
        batch = coming
    gs.barrier()
    gst.release(job.model)
    assert found == [[[k * SIZE] * 2] for k in range(1, 5)]


@case([2, 3])
def what_the_user_says_was_trained_on() -> None:
    n, rank = gs.world_size(), gs.rank()
    sampler = gst.DistributedSampler(range(5 * n + 1))
    batches = BatchSampler(sampler, 2, drop_last=False)
    next(iter(batches))  # with no model
    assert sampler.state_dict()["trained"] == []
    assert sampler.state_dict(3)["trained"] == [[3] * n]
    assert sampler.state_dict(5 + (rank == 0))["trained"] == [
        [5 + (rank == 0 and r == 0) for r in range(n)]
    ]
    uneven = [4, *range(n - 1)]
    assert sampler.state_dict(uneven)["trained"] == [uneven]
    for wrong in (-1, 7, [1] * (n + 1), [9] * n):
        with pytest.raises(gs.InvalidArgument, match="samples"):
            sampler.state_dict(wrong)
    state = sampler.state_dict(uneven)
    sampler.load_state_dict(state)
    order = shuffled(5 * n + 1, 0)
    done = {i for r, k in enumerate(uneven) for i in order[r::n][:k]}
    assert list(sampler) == [i for i in order if i not in done][rank::n]


@case([2])
def batches_that_are_left_out_are_over_with_their_epoch() -> None:
    """By the sampler's drop_last, and by the loader's."""
    for drops in (True, False):
        dataset = data(2 * (2 * SIZE + 1) + 1)
        sampler = gst.DistributedSampler(dataset, drop_last=drops)
        loader = DataLoader(dataset, SIZE + drops, sampler=sampler, drop_last=not drops)
        model, optimizer = gst.distribute(m := make("mlp"), torch.optim.SGD(m.parameters(), lr=0.1))
        for x, y in loader:
            cross_entropy(model, x, y).backward()
            optimizer.step()
            state = sampler.state_dict()
        gs.barrier()
        gst.release(model)
        sampler.load_state_dict(state)
        assert state["epoch"] == 0
        assert list(sampler) == []


@case([2])
def updates_by_hand_and_joins() -> None:
    for explicit in (False, True):
        dataset = data(2 * SIZE * 2 + 1)
        sampler = gst.DistributedSampler(dataset)
        loader = DataLoader(dataset, SIZE, sampler=sampler)
        model, _ = gst.distribute(make("mlp"))
        found = []

        def epoch(model: nn.Module = model) -> Iterator[None]:
            for x, y in loader:  # noqa: B023
                cross_entropy(model, x, y).backward()
                with torch.no_grad():
                    for p in model.parameters():
                        p -= 0.1 * p.grad
                        p.grad = None
                yield

        if explicit:
            with gst.join(model):
                found = [sampler.state_dict()["trained"] for _ in epoch()]
        else:
            found = [sampler.state_dict()["trained"] for _ in epoch()]
        gs.barrier()
        after = sampler.state_dict()
        gst.release(model)
        wanted = [[[SIZE] * 2], [[2 * SIZE] * 2]]
        assert found[:2] == wanted
        assert len(found) == 3 - gs.rank()
        assert (after["epoch"], after["trained"]) == (1, [])


@case(WORLDS)
def a_model_that_is_let_go_within_an_epoch() -> None:
    """What it was trained on counts, also without an optimizer to tell."""
    n = gs.world_size()
    for by_hand in (False, True):
        dataset = data(4 * SIZE * n)
        sampler = gst.DistributedSampler(dataset)
        optimizer = torch.optim.SGD((model := make("mlp")).parameters(), lr=0.1)
        gst.distribute(model, None if by_hand else optimizer)
        for k, (x, y) in enumerate(DataLoader(dataset, SIZE, sampler=sampler), 1):
            optimizer.zero_grad()
            cross_entropy(model, x, y).backward()
            optimizer.step()
            if k == 2:
                break
        gst.release(model)
        assert sampler.state_dict()["trained"] == [[2 * SIZE] * n]


@case([2])
def two_models_with_one_sampler() -> None:
    """One of them is trained less often."""
    job, other = Job(), make("mlp")
    other, its = gst.distribute(other, torch.optim.SGD(other.parameters(), lr=0.1))
    found = []
    for k, (x, y) in enumerate(job.loader, 1):
        cross_entropy(job.model, x, y).backward()
        job.optimizer.step()
        if k % 2 == 0:
            cross_entropy(other, x, y).backward()
            its.step()
        found.append(trained(job))
        if k == 5:
            break
    gst.release(job.model)
    gst.release(other)
    assert found == [(0, [[k * SIZE] * 2]) for k in range(1, 6)]


def go_own_ways(strategy: str, own: int, others: int) -> None:
    """Rank 1 waits after two steps, until rank 0 has made five, and saves.

    Args:
        strategy: under which they may.
        own: steps of rank 0 that it finds in the state.
        others: steps of rank 1.
    """
    job = Job(strategy, size=8 * SIZE * 2)
    word = torch.zeros(1)
    found: dict[str, Any] = {}
    for k in job.steps(1):
        if gs.rank() == 0 and k == 5:
            found = job.sampler.state_dict()
            gs.send(word, 1)
        elif gs.rank() == 1 and k == 2:
            gs.send(word, 0)
            gs.recv(word, 0)
        elif gs.rank() == 0 and k == 1:
            gs.recv(word, 1)
    after = trained(job)
    found = gst.broadcast_object(found)
    gst.release(job.model)
    assert found["trained"] == [[own * SIZE, others * SIZE]], strategy
    assert after == (1, [])
    job.sampler.load_state_dict(found)
    order = shuffled(job.size, 0)
    done = {i for r, k in ((0, own), (1, others)) for i in order[r::2][: k * SIZE]}
    assert list(job.sampler) == [i for i in order if i not in done][gs.rank() :: 2]


@case([2])
def workers_that_go_their_own_ways() -> None:
    go_own_ways("ps:asp", 5, 2)
    go_own_ways("ps:ssp(3)", 5, 2)
    go_own_ways("ps:buffered(2)", 4, 1)  # a server may hold the latest gradient of either
    go_own_ways("local_sgd(8)", 5, 0)  # there was no round


@case([2], servers=1)
def workers_of_a_dedicated_server() -> None:
    go_own_ways("ps:asp", 5, 2)


class ByNumber(BatchSampler):
    """As of a library that sorts samples by their length."""

    def __iter__(self) -> Iterator[list[int]]:
        order = sorted(self.sampler)
        yield from (order[k : k + SIZE] for k in range(0, len(order), SIZE))


@case([2])
def batches_in_another_order() -> None:
    """Which samples are left cannot be told, and that is said; not at the end of the epoch."""
    job = Job(size=3 * SIZE * 2)
    whole = job.loader.dataset
    job.loader = DataLoader(whole, batch_sampler=ByNumber(job.sampler, SIZE, False))
    with logged() as texts:
        for _ in range(2):
            found = [trained(job)[1] for _ in job.epoch()]
    assert found == [[[k * SIZE] * 2] for k in (1, 2, 3)]
    job.loader = DataLoader(whole, SIZE, sampler=job.sampler, num_workers=1, in_order=False)
    refused = 0
    for _ in job.epoch():
        try:
            trained(job)
        except gs.Unsupported as error:
            refused += "in_order=True" in str(error)
    gs.barrier()
    after = trained(job)
    gst.release(job.model)
    assert len([t for t in texts if "ByNumber" in t]) == 1
    assert refused == 2
    assert after[1] == []


@case([2, 3])
def batches_of_different_sizes() -> None:
    """Who saves is told so; not of the last ones of an epoch, nor of other weights."""
    n = gs.world_size()
    for own, weight, told in ((SIZE, 0, 0), (SIZE - gs.rank() % 2, 0, 1), (SIZE, 1, 0)):
        job = Job(size=3 * SIZE * n + n + 1)
        dataset = job.loader.dataset
        with logged() as texts:
            for x, y in DataLoader(dataset, own, sampler=job.sampler):
                if weight:  # tokens, say
                    gst.samples(len(x) * (100 + gs.rank()))
                cross_entropy(job.model, x, y).backward()
                job.optimizer.step()
                trained(job)
        gs.barrier()
        gst.release(job.model)
        assert len([t for t in texts if "differ in size" in t]) == told
