"""Push of gradients and pull of fresh parameters through gearshift's parameter server.

Set-up: bytes=100000000 consistency=bsp|asp; `gearshift run --servers K` for dedicated servers.
Order: steps=N [warmup=N]. ``seconds`` are single ``optimizer.step()`` calls with all gradients at
hand, so nothing is hidden behind backward.
"""

from __future__ import annotations

import os
import sys
import time

import torch
from load import LEARNING_RATE, busiest_link_bytes, check, gradient, parameter_sizes, start
from torch import nn

import gearshift as gs
import gearshift.torch as gst
from gearshift.bench.gate import Gate, parse_order

CONSISTENCIES = {"bsp": gs.BSP, "asp": gs.ASP}


class Worker:
    """A model that has nothing but parameters, under a parameter server."""

    def __init__(self, total_bytes: int, consistency: str) -> None:
        sizes = parameter_sizes(total_bytes)
        self.model = nn.ParameterList([nn.Parameter(start(i, n)) for i, n in enumerate(sizes)])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)
        strategy = gs.ParameterServer(consistency=CONSISTENCIES[consistency]())
        gst.distribute(self.model, self.optimizer, strategy=strategy)
        for index, parameter in enumerate(self.model):
            parameter.grad = gradient(gs.rank(), index, parameter.numel())
        self.steps = 0

    def step(self) -> float:
        """One push and pull; returns its seconds."""
        self.steps += 1
        begin = time.perf_counter()
        self.optimizer.step()
        return time.perf_counter() - begin

    def settled(self) -> list[torch.Tensor]:
        """The parameters with the pushes of all workers in them."""
        gs.barrier()
        gradients = [p.grad for p in self.model]
        for parameter in self.model:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # adds nothing, and brings what the others have pushed
        result = [p.detach().clone() for p in self.model]
        for index, parameter in enumerate(self.model):
            parameter.grad = gradients[index].copy_(gradient(gs.rank(), index, parameter.numel()))
        gs.barrier()
        return result


def main() -> None:
    """Take orders until there are none."""
    torch.set_num_threads(1)
    options = parse_order(sys.argv[1:])
    total = int(options.get("bytes", "100000000"))
    gs.init()
    worker = Worker(total, options.get("consistency", "bsp"))
    workers, servers = gs.world_size(), int(os.environ.get("GEARSHIFT_SERVERS") or 0)
    gate = Gate(gs.rank())
    for order in gate:
        made = worker.steps
        for _ in range(int(order.get("warmup", "1"))):
            worker.step()
        gs.barrier()
        seconds = [worker.step() for _ in range(int(order.get("steps", "5")))]
        parameters = worker.settled()
        problem = check(parameters, workers, worker.steps)
        gate.report(
            seconds=seconds,
            verified=not problem,
            problem=problem,
            operations=worker.steps - made,
            link_bytes=busiest_link_bytes(total, workers, servers),
        )
    gs.shutdown()


if __name__ == "__main__":
    main()
