"""What is left of an epoch, by formulas, for every number of workers before and after."""

from __future__ import annotations

import itertools

import pytest
import torch

from gearshift.torch._position import Position, share

SIZES = (0, 1, 5, 12, 23, 60)
WORKERS = (1, 2, 3, 5, 7)


def dealt(position: Position, order: list[int], workers: int) -> list[list[int]]:
    """What each worker gets."""
    rest = [int(i) for i in position.rest(torch.tensor(order, dtype=torch.int64))]
    return [rest[rank::workers] for rank in range(workers)]


@pytest.mark.parametrize(("before", "after"), list(itertools.product(WORKERS, WORKERS)))
def test_each_remaining_sample_is_dealt_once(before: int, after: int) -> None:
    for size in SIZES:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(size)).tolist()
        for k in range(size // before + 1):
            position = Position(3).after([k] * before)
            assert position.left(size) == size - k * before
            shares = dealt(position, order, after)
            assert [len(own) for own in shares] == [
                share(size - k * before, rank, after) for rank in range(after)
            ]
            if before == after:  # as if there had been no interruption
                assert shares == [order[rank::after][k:] for rank in range(after)]
            assert sorted(itertools.chain(*shares)) == sorted(order[k * before :])


@pytest.mark.parametrize("shuffled", [True, False])
def test_workers_at_different_places(shuffled: bool) -> None:
    order = torch.randperm(40).tolist() if shuffled else list(range(40))
    counts = (2, 9, 5)
    position = Position(0).after(counts)
    trained = {i for rank, n in enumerate(counts) for i in order[rank::3][:n]}
    wanted = [i for i in order if i not in trained]
    rest = position.rest(torch.tensor(order) if shuffled else range(40))
    assert [int(i) for i in rest] == wanted
    assert position.left(40) == len(wanted)


def test_an_epoch_that_is_interrupted_again_and_again() -> None:
    order = torch.randperm(200).tolist()
    position, trained = Position(0), []
    for workers, counts in ((3, (10, 10, 10)), (2, (7, 4)), (5, (6, 6, 6, 6, 6)), (7, (3,) * 7)):
        shares = dealt(position, order, workers)
        trained += [i for own, n in zip(shares, counts, strict=True) for i in own[:n]]
        position = position.after(counts)
        assert [int(i) for i in position.rest(torch.tensor(order))] == [
            i for i in order if i not in trained
        ]
    last = dealt(position, order, 1)[0]
    assert sorted(trained + last) == list(range(200))
    assert position.after([len(last)]).left(200) == 0


def test_what_one_number_of_workers_did_is_one_entry() -> None:
    """However often a job is interrupted."""
    position = Position(0).after([4, 4, 4]).after([0, 0, 0]).after([6, 6, 6])
    assert position == Position(0, ((10, 10, 10),))
    assert position.after([2, 1, 1]) == Position(0, ((12, 11, 11),))
    uneven = Position(0, ((12, 11, 11),))
    assert uneven.after([1, 1, 1]).trained == ((12, 11, 11), (1, 1, 1))
