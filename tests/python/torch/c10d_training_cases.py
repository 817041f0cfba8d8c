"""Trainings by PyTorch's own means over the gearshift backend equal those of one process."""

from __future__ import annotations

import copy
import os
import traceback
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.checkpoint import FileSystemReader, async_save, load
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import gearshift.torch.c10d  # noqa: F401  (registers the backend)

CASES: list[Callable[[], None]] = []
ROWS = 6
STEPS = 12
EXACT = 1e-12


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES.append(function)
    return function


def made() -> nn.Module:
    torch.manual_seed(3)
    layers = (nn.Linear(10, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 4))
    return nn.Sequential(*layers).double()


def batches(count: int = STEPS, seed: int = 5) -> list[tuple[Tensor, Tensor]]:
    """Of all ranks together."""
    rows = ROWS * dist.get_world_size()
    seeded = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(rows, 10, generator=seeded, dtype=torch.float64),
            torch.randint(4, (rows,), generator=seeded),
        )
        for _ in range(count)
    ]


def shared(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    rank, world = dist.get_rank(), dist.get_world_size()
    return batch[0][rank::world], batch[1][rank::world]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Iterable[tuple[Tensor, Tensor]],
) -> None:
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


def alone() -> nn.Module:
    model = made()
    train(model, adam(model.parameters()), batches())
    return model


def assert_equal(found: Iterable[Tensor], wanted: nn.Module, bound: float = EXACT) -> None:
    for one, other in zip(found, wanted.parameters(), strict=True):
        difference = (one.detach() - other.detach()).abs().max().item()
        assert difference <= bound, f"{difference:.2e} apart"


def assert_equal_everywhere(model: nn.Module) -> None:
    for p in model.parameters():
        everybody = [torch.empty_like(p) for _ in range(dist.get_world_size())]
        dist.all_gather(everybody, p.detach())
        assert all(torch.equal(other, everybody[0]) for other in everybody)


@case
def ddp() -> None:
    for options in ({}, {"bucket_cap_mb": 0.001}, {"gradient_as_bucket_view": True},
                    {"static_graph": True}, {"find_unused_parameters": True}):  # fmt: skip
        model = made()
        wrapped = DistributedDataParallel(model, **options)
        train(wrapped, adam(wrapped.parameters()), map(shared, batches()))
        assert_equal(model.parameters(), alone())


@case
def ddp_with_accumulation_and_hooks() -> None:
    model, reference = made(), made()
    wrapped = DistributedDataParallel(model)
    optimizer, its = adam(wrapped.parameters()), adam(reference.parameters())
    for first, second in zip(batches(seed=7), batches(seed=8), strict=True):
        optimizer.zero_grad()
        its.zero_grad()
        with wrapped.no_sync():
            nn.functional.cross_entropy(wrapped(shared(first)[0]), shared(first)[1]).backward()
        nn.functional.cross_entropy(wrapped(shared(second)[0]), shared(second)[1]).backward()
        for x, y in (first, second):
            nn.functional.cross_entropy(reference(x), y).backward()
        optimizer.step()
        its.step()
    assert_equal(model.parameters(), reference)
    bounds = {default_hooks.allreduce_hook: EXACT, default_hooks.fp16_compress_hook: 0.05}
    for hook, bound in bounds.items():
        model = made()
        wrapped = DistributedDataParallel(model)
        wrapped.register_comm_hook(None, hook)
        train(wrapped, adam(wrapped.parameters()), map(shared, batches()))
        assert_equal(model.parameters(), alone(), bound)


@case
def ddp_with_a_hook_whose_callbacks_reduce() -> None:
    """Several buckets, each with a chain of collectives, in one order on all ranks."""
    model = made()
    wrapped = DistributedDataParallel(model, bucket_cap_mb=0.004)
    state = powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=2)
    wrapped.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    train(wrapped, adam(wrapped.parameters()), map(shared, batches()))
    assert_equal_everywhere(model)


@case
def ddp_with_uneven_inputs() -> None:
    model = made()
    wrapped = DistributedDataParallel(model)
    optimizer = adam(wrapped.parameters())
    with Join([wrapped]):
        train(wrapped, optimizer, map(shared, batches(3 + dist.get_rank())))
    assert_equal_everywhere(model)


@case
def ddp_with_batch_statistics() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).double()
    wrapped = DistributedDataParallel(model)
    train(wrapped, adam(wrapped.parameters()), map(shared, batches(4)))
    wrapped(shared(batches(1)[0])[0])  # sends the buffers of rank 0 first
    dist.barrier()


@case
def sharded_optimizer() -> None:
    model = made()
    wrapped = DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(wrapped.parameters(), torch.optim.Adam, lr=1e-2)
    train(wrapped, optimizer, map(shared, batches()))
    assert_equal(model.parameters(), alone())


@case
def fully_sharded() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = made()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train(model, adam(model.parameters()), map(shared, batches()))
    assert_equal([p.full_tensor() for p in model.parameters()], alone())


@case
def fully_sharded_by_the_older_wrapper() -> None:
    model = FullyShardedDataParallel(made(), use_orig_params=True, device_id=torch.device("cpu"))
    train(model, adam(model.parameters()), map(shared, batches()))
    with FullyShardedDataParallel.summon_full_params(model):
        assert_equal(model.parameters(), alone())


@case
def checkpoints() -> None:
    """Whole from rank 0, and by all ranks while training goes on."""
    wanted = {key: value + 1 for key, value in made().state_dict().items()}
    model = made()
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, dict(wanted) if dist.get_rank() == 0 else {}, options=options)
    state = model.state_dict()
    async_save(state, checkpoint_id="checkpoint").result()
    for value in state.values():
        value.zero_()
    load(state, storage_reader=FileSystemReader("checkpoint"))
    for key, value in state.items():
        assert torch.equal(value.full_tensor(), wanted[key]), key


@case
def mesh_of_two_dimensions() -> None:
    """Replicas of shards: subgroups in both directions."""
    if dist.get_world_size() % 2 != 0:
        return
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "fs"))
    model = made()
    fully_shard(model, mesh=mesh)
    train(model, adam(model.parameters()), map(shared, batches()))
    assert_equal([p.full_tensor() for p in model.parameters()], alone())


@case
def averaged_models() -> None:
    """Each rank trains alone, and all average now and then: with one step each, that is SGD."""
    model, reference = made(), made()
    sgd = partial(torch.optim.SGD, lr=0.1)
    optimizer, its = sgd(model.parameters()), sgd(reference.parameters())
    for batch in batches():
        train(model, optimizer, [shared(batch)])
        for p in model.parameters():
            dist.all_reduce(p.data, dist.ReduceOp.AVG)
        train(reference, its, [batch])
    assert_equal(model.parameters(), copy.deepcopy(reference))


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gearshift",
        init_method=os.environ["MEET"],
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timedelta(seconds=60),
    )
    for function in CASES:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            print(f"failed: {function.__name__} on rank {os.environ['RANK']}", flush=True)
            os._exit(1)  # the others must not wait for this one's next case
    dist.destroy_process_group()
    print(f"passed: {len(CASES)}", flush=True)


if __name__ == "__main__":
    main()
