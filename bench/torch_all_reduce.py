"""torch.distributed's all-reduce over Gloo, a peer in the comparison of collectives, or over ours.

torchrun --nproc-per-node 2 bench/torch_all_reduce.py backend=gloo bytes=1048576 operations=100

Set-up: backend=gloo|gearshift.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.distributed as dist
from all_reduce_rounds import serve_all_reduce

from gearshift.bench.gate import Gate, parse_order


def allocate(count: int) -> tuple[np.ndarray, torch.Tensor]:
    tensor = torch.empty(count)
    return tensor.numpy(), tensor


def main() -> None:
    torch.set_num_threads(1)
    backend = parse_order(sys.argv[1:]).get("backend", "gloo")
    if backend == "gearshift":
        import gearshift.torch.c10d  # noqa: F401  (registers the backend)
    dist.init_process_group(backend)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    serve_all_reduce(Gate(rank), allocate, dist.all_reduce, rank, ranks)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
