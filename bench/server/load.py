"""What both parameter servers are given to do: gradients, and the result to expect."""

from __future__ import annotations

import torch
from torch import Tensor

LEARNING_RATE = 0.01
PARAMETERS = 25
"""The bytes are spread evenly over so many parameters."""


def parameter_sizes(total_bytes: int) -> list[int]:
    """Elements of each parameter."""
    return [total_bytes // 4 // PARAMETERS] * PARAMETERS


def start(index: int, size: int) -> Tensor:
    """A parameter before training."""
    return torch.arange(size, dtype=torch.float32).remainder_(7).add_(index)


def gradient(rank: int, index: int, size: int) -> Tensor:
    """What a worker pushes in every step."""
    return torch.arange(size, dtype=torch.float32).remainder_(5).add_(rank + index % 3)


def expected(index: int, size: int, ranks: int, steps: int) -> Tensor:
    """A parameter after `steps` steps of `ranks` workers, synchronous or not."""
    mean = sum(gradient(rank, index, size).double() for rank in range(ranks)) / ranks
    return start(index, size).double() - LEARNING_RATE * steps * mean


def check(parameters: list[Tensor], ranks: int, steps: int) -> str:
    """What is wrong with the parameters; empty: nothing."""
    for index, parameter in enumerate(parameters):
        right = expected(index, parameter.numel(), ranks, steps)
        error = float((parameter.detach().double().flatten() - right).abs().max())
        # One rounding per update, of numbers of this size.
        allowed = steps * ranks * 2.0**-23 * float(right.abs().max() + 10)
        if not error <= allowed:
            return f"parameter {index} is off by {error:.2e} after {steps} steps"
    return ""


def busiest_link_bytes(total: int, workers: int, servers: int) -> float:
    """Bytes that one direction of the busiest link carries per step, one process per host.

    Args:
        servers: dedicated ones; 0: every worker hosts a shard. Then (workers-1)/workers of a
            worker's gradient leave it, and as much of its shard goes to the others.
    """
    if servers == 0:
        return 2 * total * (workers - 1) / workers
    return total * max(1.0, workers / servers)
