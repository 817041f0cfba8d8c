"""Ranks with different numbers of samples: exact, and nobody waits for ever."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from gearshift_testing import case
from gearshift_testing.training import MLP, assert_equal_everywhere, difference, make
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gearshift as gs
import gearshift.torch as gst

STRATEGIES = {
    "all_reduce": lambda: gs.AllReduce(bucket_mb=2**-10),
    "bsp": lambda: gs.ParameterServer(bucket_mb=2**-10),
}


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def data(size: int, seed: int = 5) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(0, 3, (size,), generator=generator))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def train_alone(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    per_rank: Sequence[Sequence[tuple[Tensor, Tensor]]],
) -> None:
    """One process: in each step the batches of all ranks that have one left, as one batch."""
    for k in range(max(len(batches) for batches in per_rank)):
        parts = [batches[k] for batches in per_rank if k < len(batches)]
        x, y = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        step(model, optimizer, x, y)


def compare(train: Callable[[nn.Module, torch.optim.Optimizer], None], alone: nn.Module) -> None:
    for name, strategy in STRATEGIES.items():
        model = make("mlp")
        model, optimizer = gst.distribute(model, sgd(model.parameters()), strategy())
        train(model, optimizer)
        assert_equal_everywhere(model)
        found = difference(model, alone)
        gst.release(model)
        assert found <= 1e-12, f"{name}: relative difference {found:.2e}"


@case([3])
def ten_seven_and_no_batches() -> None:
    generator = torch.Generator().manual_seed(1)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(size, 6, generator=generator, dtype=torch.float64)
        return x, torch.randint(0, 3, (size,), generator=generator)

    # Batches differ in size, too.
    per_rank = [[batch(2 + (r + k) % 3) for k in range(n)] for r, n in enumerate((10, 7, 0))]
    alone = make("mlp")
    its = sgd(alone.parameters())
    for _ in range(2):
        train_alone(alone, its, per_rank)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for epoch in range(2):
            with gst.join(model):
                for x, y in per_rank[gs.rank()]:
                    step(model, optimizer, x, y)
            assert gst.stats(model)["step"] == 10 * (epoch + 1)

    compare(train, alone)


@case([2, 3])
def batches_are_accumulated_and_the_last_one_steps() -> None:
    """A rank with an odd number of batches steps with its last one, before the others do."""
    lengths = (3, 4, 1)[: gs.world_size()]
    x, y = data(4).tensors
    per_rank = [[(x + r, y) for _ in range(n)] for r, n in enumerate(lengths)]
    alone = make("mlp")
    its = sgd(alone.parameters())
    for _ in range(2):
        its.zero_grad()
        for k in range(4):
            parts = [batches[k] for batches in per_rank if k < len(batches)]
            xs, ys = (torch.cat([part[i] for part in parts]) for i in (0, 1))
            nn.functional.cross_entropy(alone(xs), ys).backward()
            if k % 2 == 1:
                its.step()
                its.zero_grad()

    model = make("mlp")
    model, its = gst.distribute(model, sgd(model.parameters()), STRATEGIES["all_reduce"]())
    mine = per_rank[gs.rank()]
    for _ in range(2):
        its.zero_grad()
        with gst.join(model):
            for k, (xs, ys) in enumerate(mine):
                nn.functional.cross_entropy(model(xs), ys).backward()
                if k % 2 == 1 or k + 1 == len(mine):
                    its.step()
                    its.zero_grad()
        assert gst.stats(model)["step"] % 2 == 0
    assert_equal_everywhere(model)
    found = difference(model, alone)
    gst.release(model)
    assert found <= 1e-12, f"relative difference {found:.2e}"


@case([2, 3, 4])
def epochs_of_our_sampler_end_by_themselves() -> None:
    dataset = data(11 * gs.world_size() - 3)
    alone = make("mlp")
    its = sgd(alone.parameters())
    for epoch in range(3):
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(9 + epoch))
        shares = [order[r :: gs.world_size()] for r in range(gs.world_size())]
        per_rank = [[dataset[part] for part in share.split(2)] for share in shares]
        train_alone(alone, its, per_rank)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        sampler = gst.DistributedSampler(dataset, seed=9)
        loader = DataLoader(dataset, batch_size=2, sampler=sampler)
        evaluation = DataLoader(
            dataset, batch_size=5, sampler=gst.DistributedSampler(dataset, shuffle=False)
        )
        for epoch in range(3):
            sampler.set_epoch(epoch)
            model.train()
            for x, y in loader:
                step(model, optimizer, x, y)
            assert_equal_everywhere(model)
            model.eval()
            with torch.no_grad():
                seen = sum(len(model(x)) for x, _ in evaluation)
            total = gs.all_reduce(torch.tensor([seen]))
            assert total.item() == len(dataset)

    compare(train, alone)


@case([2, 3])
def loaders_that_drop_their_last_batch() -> None:
    dataset = data(8 * gs.world_size() - 1)  # the last rank has one batch of four less

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        sampler = gst.DistributedSampler(dataset, shuffle=False)
        loader = DataLoader(dataset, batch_size=4, sampler=sampler, drop_last=True)
        for _ in range(3):
            for x, y in loader:
                assert len(x) == 4
                step(model, optimizer, x, y)
            assert gs.all_reduce(torch.ones(1)).item() == gs.world_size()

    alone = make("mlp")
    its = sgd(alone.parameters())
    x, y = dataset.tensors
    n = gs.world_size()
    per_rank = [
        [(part, b) for part, b in zip(x[r::n].split(4), y[r::n].split(4), strict=True)]
        for r in range(n)
    ]
    per_rank = [[pair for pair in batches if len(pair[0]) == 4] for batches in per_rank]
    for _ in range(3):
        train_alone(alone, its, per_rank)
    compare(train, alone)


@case([2, 3])
def a_loop_left_early_ends_with_the_next_epoch() -> None:
    dataset = data(10 * gs.world_size())

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        loader = DataLoader(
            dataset, batch_size=2, sampler=gst.DistributedSampler(dataset), num_workers=0
        )
        for _ in range(3):
            for k, (x, y) in enumerate(loader):
                step(model, optimizer, x, y)
                if k == gs.rank():  # rank r leaves after r + 1 batches
                    break
        loader = DataLoader(dataset, batch_size=2, sampler=gst.DistributedSampler(dataset))
        iter(loader.sampler)

    model = make("mlp")
    model, optimizer = gst.distribute(model, sgd(model.parameters()))
    train(model, optimizer)
    assert_equal_everywhere(model)
    assert gst.stats(model)["step"] == 3 * gs.world_size()
    gst.release(model)


@case([3])
def fewer_samples_than_ranks() -> None:
    dataset = data(2)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        loader = DataLoader(dataset, sampler=gst.DistributedSampler(dataset, shuffle=False))
        for _ in range(4):
            for x, y in loader:
                step(model, optimizer, x, y)

    alone = make("mlp")
    its = sgd(alone.parameters())
    for _ in range(4):
        step(alone, its, *dataset.tensors)
    compare(train, alone)


@case([2])
def empty_batches_weigh_nothing() -> None:
    dataset = data(8)
    x, y = dataset.tensors
    alone = make("mlp")
    its = sgd(alone.parameters())
    for _ in range(3):
        step(alone, its, x[:4], y[:4])
        step(alone, its, x, y)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        first = gs.rank() == 0
        for _ in range(3):
            a, b = (x[:4], y[:4]) if first else (x[:0], y[:0])
            step(model, optimizer, a, b)
            a, b = (x[:4], y[:4]) if first else (x[4:], y[4:])
            step(model, optimizer, a, b)

    compare(train, alone)


@case([2, 3])
def weights_that_the_user_gives() -> None:
    """Loss per token: gradients weighted by tokens are those of all tokens together."""
    n = gs.world_size()
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(n, 5, 6, generator=generator, dtype=torch.float64)
    wanted = torch.randint(0, 3, (n, 5), generator=generator)
    used = [5, 2, 3][:n]
    alone = make("mlp")
    its = sgd(alone.parameters())
    for _ in range(5):
        x = torch.cat([tokens[r, : used[r]] for r in range(n)])
        y = torch.cat([wanted[r, : used[r]] for r in range(n)])
        step(alone, its, x, y)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        own, r = used[gs.rank()], gs.rank()
        for _ in range(5):
            # The padded sequence has one leading dimension of 1, whatever its length.
            logits = model(tokens[r : r + 1])[0, :own]
            optimizer.zero_grad()
            gst.samples(own)
            nn.functional.cross_entropy(logits, wanted[r, :own]).backward()
            optimizer.step()

    compare(train, alone)


@case([1, 2, 3])
def the_sampler_deals_anew_after_each_epoch_that_was_trained_on() -> None:
    dataset = data(12)
    sampler = gst.DistributedSampler(dataset, seed=4)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler)
    model = make("mlp")
    model, optimizer = gst.distribute(model, sgd(model.parameters()))
    orders = []
    for epoch in range(3):
        if gs.rank() == 0:
            next(iter(loader))  # a look at the data, on one rank alone
        seen = []
        for x, y in loader:
            step(model, optimizer, x, y)
            seen += [int((dataset.tensors[0] == row).all(1).nonzero()) for row in x]
        expected = torch.randperm(12, generator=torch.Generator().manual_seed(4 + epoch))
        assert seen == expected.tolist()[gs.rank() :: gs.world_size()], epoch
        orders.append(seen)
    gst.release(model)
    assert orders[0] != orders[1] != orders[2]


@case([1, 2, 3])
def the_sampler_deals_each_sample_once() -> None:
    n, rank = gs.world_size(), gs.rank()
    for size in (0, 1, 7, 12):
        dataset = list(range(size))
        for epoch in (0, 3):
            sampler = gst.DistributedSampler(dataset, seed=4)
            sampler.set_epoch(epoch)
            own = list(sampler)
            order = torch.randperm(size, generator=torch.Generator().manual_seed(4 + epoch))
            assert own == order.tolist()[rank::n]
            assert len(sampler) == len(own)
        plain = list(gst.DistributedSampler(dataset, shuffle=False))
        assert plain == dataset[rank::n]
        even = gst.DistributedSampler(dataset, drop_last=True)
        assert len(list(even)) == len(even) == size // n


@case([3])
def momentum_is_that_of_the_rank_that_went_furthest() -> None:
    """Ranks that join early take over the optimizer's state, too: the next epoch is exact."""
    model = make("mlp")
    model, optimizer = gst.distribute(model, torch.optim.Adam(model.parameters(), lr=1e-2))
    x, y = data(6).tensors
    for _ in range(2):
        with gst.join(model):
            for _ in range(1 + gs.rank()):
                step(model, optimizer, x, y)
    state = optimizer.state_dict()["state"]
    assert state[0]["step"] == 6
    assert_equal_everywhere(model)
    alone = MLP().double()
    alone.load_state_dict(make("mlp").state_dict())
    other = torch.optim.Adam(alone.parameters(), lr=1e-2)
    for _ in range(6):
        step(alone, other, x, y)
    found = difference(model, alone)
    reference = copy.deepcopy(other.state_dict()["state"])
    gst.release(model)
    assert found <= 1e-12
    torch.testing.assert_close(state[0]["exp_avg"], reference[0]["exp_avg"], rtol=1e-10, atol=1e-14)


@case([2])
def loaders_with_worker_processes() -> None:
    """They draw from the sampler long before the model has seen the samples."""
    dataset = data(21)
    alone = make("mlp")
    its = sgd(alone.parameters())
    x, y = dataset.tensors
    n = gs.world_size()
    per_rank = [list(zip(x[r::n].split(2), y[r::n].split(2), strict=True)) for r in range(n)]
    for _ in range(2):
        train_alone(alone, its, per_rank)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        sampler = gst.DistributedSampler(dataset, shuffle=False)
        loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=1)
        for _ in range(2):
            for a, b in loader:
                step(model, optimizer, a, b)

    compare(train, alone)


@case([2])
def what_is_written_after_the_last_step_of_an_epoch() -> None:
    """As by weight clipping: the join must not bring back what servers had before."""

    def clip(model: nn.Module) -> None:
        with torch.no_grad():
            for p in model.parameters():
                p.clamp_(-0.25, 0.25)

    alone = make("mlp")
    its = sgd(alone.parameters())
    for seed in range(3):
        step(alone, its, *data(8, seed).tensors)
        clip(alone)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for seed in range(3):
            with gst.join(model):
                x, y = data(8, seed).tensors
                step(model, optimizer, x[gs.rank() :: 2], y[gs.rank() :: 2])
                clip(model)

    compare(train, alone)
