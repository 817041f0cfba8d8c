"""Training that stops within an epoch goes on with the samples that are left, and no others."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from gearshift_testing import case
from gearshift_testing.epochs import SIZE, data
from gearshift_testing.resuming import Job, logged, shuffled, state_of
from gearshift_testing.training import assert_equal_everywhere, difference

import gearshift as gs
import gearshift.torch as gst

WORLDS = (1, 2, 3)
MANY = (1, 2, 3, 5, 7)


@case((1, 3, 7))
def each_remaining_sample_is_dealt_once() -> None:
    """After any number of workers, by the formula."""
    rank, world = gs.rank(), gs.world_size()
    for size, before, drop_last in itertools.product((11, 60, 61), MANY, (False, True)):
        for shuffle, k in itertools.product((False, True), {0, 1, size // before}):
            order = shuffled(size, 4) if shuffle else list(range(size))
            rest = order[k * before :]
            own = rest[rank::world][: len(rest) // world if drop_last else None]
            sampler = gst.DistributedSampler(range(size), shuffle, drop_last=drop_last)
            kind = {"shuffle": shuffle} | ({"seed": 0} if shuffle else {})
            sampler.load_state_dict(state_of(size, 4, [[k] * before], **kind))
            assert list(sampler) == own
            if own:  # else they have been trained on
                assert list(sampler) == own, "to look at them is no training"
            sampler.set_epoch(5)
            whole = shuffled(size, 5) if shuffle else order
            share = size // world
            assert list(sampler)[:share] == whole[rank::world][:share]


def interrupted(job: Job, until: int, epochs: int = 3) -> dict[str, Any]:
    """What rank 0 has saved after so many steps, when the job is gone."""
    job.run(epochs, until)
    saved = gst.broadcast_object(job.save() if gs.rank() == 0 else None)
    gst.release(job.model)
    return saved


def ended(job: Job, saved: dict[str, Any] | None = None) -> Job:
    """After three epochs, and gone."""
    if saved is not None:
        job.load(saved)
    job.run(3)
    gs.barrier()
    assert_equal_everywhere(job.model)
    gst.release(job.model)
    return job


def compare(stops: tuple[int, ...], **options: Any) -> None:
    """A job that is interrupted after so many steps ends where one ends that is not."""
    whole = ended(Job(**options))
    for until in stops:
        saved = interrupted(Job(**options), until)
        second = ended(Job(**options), saved)
        found = difference(second.model, whole.model)
        seen, wanted = torch.cat(second.seen), torch.cat(whole.seen)
        assert 0 < len(seen) < len(wanted)
        assert torch.equal(seen, wanted[len(wanted) - len(seen) :]), "the same, in one order"
        assert found <= 1e-12, f"{options} after {until} steps: {found:.2e}"


@case(WORLDS)
def a_resumed_job_ends_as_one_that_was_not_interrupted() -> None:
    """Steps 6 and 12 end an epoch, the last of them with different numbers of samples."""
    for strategy in ("all_reduce", "ps:bsp"):
        for options in ({}, {"shuffle": False}, {"sets_epoch": False}):
            compare((2, 4, 6, 9), strategy=strategy, **options)


@case([2])
def a_resumed_job_with_worker_processes() -> None:
    compare((2, 9), workers=2)


@case(WORLDS)
def a_resumed_job_of_local_sgd() -> None:
    compare((2, 4), strategy="local_sgd(2)")


@case([2, 3])
def a_resumed_job_that_accumulates_gradients() -> None:
    """Micro-batches that wait for a step are trained on again."""
    compare((1, 3, 4), accumulate=2, size=6 * SIZE * gs.world_size())


@case([2])
def a_job_that_is_interrupted_twice() -> None:
    whole = ended(Job())
    second = Job()
    second.load(interrupted(Job(), 2))
    third = ended(Job(), interrupted(second, 2))
    assert difference(third.model, whole.model) <= 1e-12


@case(WORLDS)
def a_checkpoint_with_the_last_batch() -> None:
    """The loop goes on where it was: nothing is left, and then the next epoch comes."""
    for sets_epoch in (True, False):
        first = Job(sets_epoch=sets_epoch)
        saved = [first.save() for _ in first.steps(1)]
        gs.barrier()
        gst.release(first.model)
        second = Job(sets_epoch=sets_epoch)
        second.load(gst.broadcast_object(saved[-1]))
        epochs = []
        for epoch in range(second.sampler.epoch, 2):
            if sets_epoch:
                second.sampler.set_epoch(epoch)
            epochs.append(sum(1 for _ in second.epoch()))
        gs.barrier()
        gst.release(second.model)
        own = shuffled(second.size, 1)[gs.rank() :: gs.world_size()]
        assert epochs[0] == 0
        assert torch.equal(torch.cat(second.seen), data(second.size).tensors[0][own])


@case([2, 3])
def ranks_that_load_different_states_are_told_so() -> None:
    sampler = gst.DistributedSampler(range(30))
    last = gs.world_size() - 1
    state = state_of(30, 2, [[4, 4]])
    other = state_of(30, 2, [[5, 5]])
    with pytest.raises(gs.MismatchError, match=f"rank {last} has not loaded the same"):
        sampler.load_state_dict(other if gs.rank() == last else state)
    wrong = gs.InvalidArgument if gs.rank() == 0 else gs.MismatchError
    with pytest.raises(wrong):
        sampler.load_state_dict({} if gs.rank() == 0 else state)
    sampler.load_state_dict(state)
    assert list(sampler) == shuffled(30, 2)[8:][gs.rank() :: gs.world_size()]


@case(WORLDS)
def states_of_another_order_are_refused() -> None:
    sampler = gst.DistributedSampler(range(30), seed=1)
    right = {"shuffle": True, "seed": 1}
    for state, why in (
        (state_of(30, 0, [[4]], shuffle=True, seed=2), "seed=2"),
        (state_of(31, 0, [[4]], **right), "samples=31"),
        (state_of(30, 0, [[4]], shuffle=False, seed=1), "shuffle=False"),
        (state_of(30, 0, [[31]], **right), "of 30"),
        (state_of(30, 0, [[8, 8], [15]], **right), "of 14"),
        (state_of(30, 0, [[]], **right), "no state"),
        ({"model": 1}, "no state"),
        ([1], "no state"),
    ):
        with pytest.raises(gs.InvalidArgument, match=why):
            sampler.load_state_dict(state)


@case([2])
def an_epoch_that_is_left_behind() -> None:
    """The script names another epoch than the one that was interrupted: it is said, once."""
    sampler = gst.DistributedSampler(range(30))
    for epoch, told in ((3, 0), (0, 1), (1, 1)):
        sampler.load_state_dict(state_of(30, 3, [[5, 5]]))
        sampler.set_epoch(epoch)
        with logged() as texts:
            for _ in range(2):
                list(sampler)
        assert len(texts) == (told if gs.rank() == 0 else 0)
        assert all("20 samples are left" in text for text in texts)
