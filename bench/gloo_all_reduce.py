"""Gloo's all-reduce through torch.distributed: a peer in the comparison of collectives.

torchrun --nproc-per-node 2 bench/gloo_all_reduce.py bytes=1048576 operations=100
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from all_reduce_rounds import serve_all_reduce

from gearshift.bench.gate import Gate


def allocate(count: int) -> tuple[np.ndarray, torch.Tensor]:
    tensor = torch.empty(count)
    return tensor.numpy(), tensor


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    serve_all_reduce(Gate(rank), allocate, dist.all_reduce, rank, ranks)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
