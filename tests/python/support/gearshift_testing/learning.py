"""Simulations that learn, forked from a process that has torch already: ten times as fast."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimizer of a process imports it, and that takes a second
from torch import nn

import gearshift as gs
from gearshift.errors import from_core
from gearshift.sim import child
from gearshift.sim.messages import Request
from gearshift.sim.processes import OnStep, Pool
from gearshift.sim.result import Result
from gearshift.sim.workload import Workload
from gearshift.torch import SimulatedTraining

from . import learning_tasks as tasks

THERE_AND_BACK = gs.StrategySwitch(
    gs.AllReduce(), gs.ParameterServer(gs.BSP(), shards=2), gs.At(step=8), gs.At(step=20)
)
"""All-Reduce, a parameter server, and All-Reduce again, in thirty steps."""

_context = multiprocessing.get_context("forkserver")


class ForkedPool(Pool):
    """Runs simulations in forked processes."""

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__(1)
        self._environment = environment

    def run(self, request: Request, on_step: OnStep | None = None) -> dict[str, Any]:
        _start_server()
        receiver, sender = _context.Pipe(duplex=False)
        process = _context.Process(target=_work, args=(request, self._environment, sender))
        process.start()
        sender.close()
        kind, answer = receiver.recv()
        process.join()
        if kind == "error":
            raise from_core(*answer)
        return answer


def _start_server() -> None:
    """Preloading looks for modules where the environment says, and not in sys.path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        _context.set_forkserver_preload([__name__])
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _work(request: Request, environment: dict[str, str], sender: Connection) -> None:
    os.environ |= environment
    try:
        answer: tuple[str, Any] = ("result", child._simulate(request, io.BytesIO()))
    except gs.Error as error:
        answer = ("error", (error.code, str(error), -1 if error.rank is None else error.rank))
    sender.send(answer)
    sender.close()
    os._exit(0)


def cluster(workers: int, **more: Any) -> dict[str, Any]:
    """Hosts whose steps vary."""
    return {
        "hosts": [{"name": "n", "count": workers}],
        "variability": {"kind": "normal", "spread": 0.1},
        **more,
    }


def workload(training: SimulatedTraining) -> Workload:
    """Of a task."""
    return training.workload("1 ms", "2 ms", "100 us", tasks.BATCH, "toy")


def learn(
    task: str, where: dict[str, Any], strategy: Any, out: Path | None = None, **options: Any
) -> Result:
    """Simulate a function of the tasks; `out` gets the last evaluation's model."""
    environment = {} if out is None else {tasks.OUT: str(out)}
    described = options.pop("workload", None) or workload(getattr(tasks, task)())
    return gs.simulate(
        where,
        described,
        strategy,
        train=f"{tasks.__name__}:{task}",
        pool=ForkedPool(environment),
        **{"steps": 30, "evaluate_every": 10, **options},
    )


def alone(task: str, workers: int, steps: int = 30) -> nn.Module:
    """The same in one process, as anybody would write it, with the batches of all workers."""
    training: SimulatedTraining = getattr(tasks, task)()
    for step in range(1, steps + 1):
        training.optimizer.zero_grad()
        for worker in range(workers):
            batch = training.batch(worker, step, workers)
            (training.loss(training.model, batch) / workers).backward()
        training.optimizer.step()
        if training.scheduler is not None:
            training.scheduler.step()
        if training.epoch_scheduler is not None and step % training.steps_per_epoch == 0:
            training.epoch_scheduler.step()
    return training.model


def assert_equal_models(found: Path, wanted: nn.Module) -> None:
    """To 1e-12 of each tensor's length."""
    state = torch.load(found, weights_only=True)
    assert state.keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        difference = (state[name] - tensor).double().norm()
        assert difference <= 1e-12 * tensor.double().norm(), f"{name}: {difference}"
