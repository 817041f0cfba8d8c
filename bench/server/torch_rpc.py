"""A parameter server written with torch.distributed.rpc: what gearshift's is compared with.

As one would write it with PyTorch's tutorial at hand: a worker sends its gradient to each shard in
one call, the shard applies SGD (BSP: when all workers' gradients are there; ASP: at once) and
returns its parameters.

Set-up: bytes=100000000 consistency=bsp|asp [transport=tcp]; the last GEARSHIFT_SERVERS of the
WORLD_SIZE processes are dedicated servers (0: every worker hosts a shard). transport=tcp keeps
TensorPipe from shared memory, for processes that stand for different hosts.
Order: steps=N [warmup=N].
"""

from __future__ import annotations

import os
import sys
import threading
import time

import torch
from load import LEARNING_RATE, busiest_link_bytes, check, gradient, parameter_sizes, start
from torch import Tensor
from torch.distributed import rpc

from gearshift.bench.gate import Gate, parse_order


class Shard:
    """A contiguous part of the parameters."""

    def __init__(self, parameters: Tensor, workers: int, synchronous: bool) -> None:
        self.parameters = parameters
        self.workers = workers
        self.synchronous = synchronous
        self.lock = threading.Lock()
        self.sum: Tensor | None = None
        self.count = 0
        self.updated: torch.futures.Future[Tensor] = torch.futures.Future()

    def push_pull(self, gradient: Tensor) -> torch.futures.Future[Tensor]:
        """Take in a gradient; the future has the fresh parameters."""
        with self.lock:
            if not self.synchronous:
                self.parameters.add_(gradient, alpha=-LEARNING_RATE / self.workers)
                done: torch.futures.Future[Tensor] = torch.futures.Future()
                done.set_result(self.parameters.clone())
                return done
            self.sum = gradient if self.sum is None else self.sum.add_(gradient)
            self.count += 1
            updated = self.updated
            if self.count == self.workers:
                self.parameters.add_(self.sum, alpha=-LEARNING_RATE / self.workers)
                self.sum, self.count = None, 0
                self.updated = torch.futures.Future()
                updated.set_result(self.parameters.clone())
            return updated


_shard: Shard | None = None


@rpc.functions.async_execution
def push_pull(gradient: Tensor) -> torch.futures.Future[Tensor]:
    """Runs where the shard is."""
    assert _shard is not None
    return _shard.push_pull(gradient)


def rendezvous(workers: int) -> None:
    """Runs on worker 0: returns when all workers have called it as often."""
    with _arrived:
        _arrivals[0] += 1
        goal = -(-_arrivals[0] // workers) * workers
        _arrived.notify_all()
        _arrived.wait_for(lambda: _arrivals[0] >= goal)


_arrived = threading.Condition()
_arrivals = [0]


class Worker:
    """The whole model, flat, with its gradient."""

    def __init__(self, rank: int, workers: int, hosts: list[str], total_bytes: int) -> None:
        self.name = str(rank)
        self.workers = workers
        self.hosts = hosts
        self.sizes = parameter_sizes(total_bytes)
        self.parameters = whole_model(total_bytes)
        self.gradient = torch.cat([gradient(rank, i, n) for i, n in enumerate(self.sizes)])
        self.steps = 0

    def step(self) -> float:
        """One push and pull; returns its seconds."""
        self.steps += 1
        begin = time.perf_counter()
        self.exchange(self.gradient)
        return time.perf_counter() - begin

    def exchange(self, whole: Tensor) -> None:
        """Push a gradient to all shards, and take over their parameters."""
        parts = whole.tensor_split(len(self.hosts))
        fresh = [self.ask(host, part) for host, part in zip(self.hosts, parts, strict=True)]
        targets = self.parameters.tensor_split(len(self.hosts))
        for target, future in zip(targets, fresh, strict=True):
            target.copy_(future.wait())

    def ask(self, host: str, part: Tensor) -> torch.futures.Future[Tensor]:
        """Push a gradient to a shard; to the one in this process without a message."""
        if host == self.name and _shard is not None:
            return _shard.push_pull(part.clone())
        return rpc.rpc_async(host, push_pull, (part,))

    def settled(self) -> list[Tensor]:
        """The parameters with the pushes of all workers in them."""
        self.barrier()
        self.exchange(torch.zeros_like(self.gradient))
        self.barrier()
        return list(self.parameters.split(self.sizes))

    def barrier(self) -> None:
        """Wait for all workers."""
        rpc.rpc_sync("0", rendezvous, (self.workers,))


def whole_model(total_bytes: int) -> Tensor:
    """All parameters before training, flat."""
    return torch.cat([start(i, n) for i, n in enumerate(parameter_sizes(total_bytes))])


def serve(order: dict[str, str], index: int, shards: int, workers: int, total: int) -> None:
    """Host a shard in this process."""
    global _shard
    part = whole_model(total).tensor_split(shards)[index].clone()
    _shard = Shard(part, workers, order.get("consistency", "bsp") == "bsp")


def options_of(order: dict[str, str]) -> rpc.TensorPipeRpcBackendOptions:
    """TensorPipe's own choice of transports, or TCP alone."""
    if order.get("transport") == "tcp":
        return rpc.TensorPipeRpcBackendOptions(
            rpc_timeout=300, _transports=["uv"], _channels=["mpt_uv", "basic"]
        )
    return rpc.TensorPipeRpcBackendOptions(rpc_timeout=300)


def work(worker: Worker, rank: int, total: int, servers: int) -> None:
    """Take orders until there are none."""
    gate = Gate(rank)
    for order in gate:
        made = worker.steps
        for _ in range(int(order.get("warmup", "1"))):
            worker.step()
        worker.barrier()
        seconds = [worker.step() for _ in range(int(order.get("steps", "5")))]
        parameters = worker.settled()
        problem = check(parameters, worker.workers, worker.steps)
        gate.report(
            seconds=seconds,
            verified=not problem,
            problem=problem,
            operations=worker.steps - made,
            link_bytes=busiest_link_bytes(total, worker.workers, servers),
        )


def main() -> None:
    """One process: a worker, a shard, or both."""
    torch.set_num_threads(1)
    order = parse_order(sys.argv[1:])
    total = int(order.get("bytes", "100000000"))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    servers = int(os.environ.get("GEARSHIFT_SERVERS") or 0)
    workers = world - servers
    shards = [str(r) for r in range(workers, world)] or [str(r) for r in range(workers)]
    if str(rank) in shards:
        serve(order, shards.index(str(rank)), len(shards), workers, total)
    rpc.init_rpc(str(rank), rank=rank, world_size=world, rpc_backend_options=options_of(order))
    if rank < workers:
        work(Worker(rank, workers, shards, total), rank, total, servers)
    rpc.shutdown()


if __name__ == "__main__":
    main()
